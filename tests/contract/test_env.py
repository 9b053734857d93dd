"""`.env.example` names every variable there is, with its true default, and none that nothing reads."""

from __future__ import annotations

import re
from pathlib import Path

from api.settings import Settings
from tests.contract.files import ROOT, compose, compose_files, dockerfile_arguments, nginx_defaults

# `${NAME}`, `${NAME:-default}` and their kin; not `$$NAME`, which is for the container's own shell.
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>[A-Z_]+)(?::?-(?P<default>[^}]*))?[^}]*\}")


def documented() -> dict[str, str]:
    """Name to default, of every variable in .env.example."""
    lines = re.findall(r"^# ([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(lines) == len(dict(lines)), "a variable is documented twice"
    return dict(lines)


def of_settings() -> dict[str, str]:
    def spelled(default: object) -> str:
        if isinstance(default, Path) and default.is_absolute():
            return str(default.relative_to(ROOT))
        return "" if default is None else str(default)

    return {f"SHOAL_{name.upper()}": spelled(field.default) for name, field in Settings.model_fields.items()}


def of_compose() -> dict[str, str]:
    """Name to default, of every variable that Compose fills in or hands on. What has no default in a compose file has
    it where it is read: in the Dockerfile, or in nginx/start."""
    elsewhere = dockerfile_arguments() | nginx_defaults()
    found = {}
    for path in compose_files():
        for match in VARIABLE.finditer(path.read_text()):
            found[match["name"]] = match["default"]
        for service in compose(path.name)["services"].values():
            arguments = service.get("build", {}).get("args", {})
            for name, value in {**arguments, **service.get("environment", {})}.items():
                if value is None and not name.startswith("SHOAL_"):
                    found[name] = elsewhere[name]
    return found


def test_every_setting_is_documented_with_its_default() -> None:
    settings = of_settings()
    assert {name: default for name, default in documented().items() if name.startswith("SHOAL_")} == settings


def test_every_variable_of_compose_is_documented_with_its_default() -> None:
    compose = {name: default for name, default in of_compose().items() if not name.startswith("SHOAL_")}
    assert {name: default for name, default in documented().items() if not name.startswith("SHOAL_")} == compose


def test_nothing_has_to_be_set() -> None:
    # Uncommented, a line would be a value that everyone who copies the file gets.
    assert re.findall(r"^[^#\n].*$", (ROOT / ".env.example").read_text(), re.MULTILINE) == []
    required = [path.name for path in compose_files() if re.search(r"(?<!\$)\$\{[A-Z_]+:?\?", path.read_text())]
    assert required == []
