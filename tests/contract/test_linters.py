"""hadolint, gixy and compose-lint on what they read. A finding is mended, or waived here with the reason; a waiver that
nothing needs any more fails too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.files import ROOT, compose

BIN = Path(sys.executable).parent

WAIVED_IN_DOCKERFILE = {
    "DL3003": "a WORKDIR for three `rm` would be a layer, and stand for what follows",
    "DL3064": "SHOAL_ADMIN_TOKEN_FILE is where the token is, not the token",
}
WAIVED_IN_NGINX = {
    "host_spoofing": "a replica makes nothing of the Host, and nothing is cached by it; $host would lose the port",
    "worker_rlimit_nofile_vs_connections": "nginx/start raises the limit to whatever the machine allows",
}
# Of compose's own addresses, which are names: gixy does not see the resolver of the upstream (0.9.0).
WAIVED_WITH_NAMES = {"stale_dns_cache": "the upstream has `resolve` and a resolver; a system test counts its finds"}
WAIVED_IN_COMPOSE = {
    "CL-0005": "nginx is what the world is to reach; all else is on loopback, or not published",
    "CL-0019": "a tag gets the security fixes of its version, a digest never; whoever wants digests has `compose config"
    " --resolve-image-digests`",
    "CL-0020": "SHOAL_POSTGRES_DSN is without its password, which comes as a file",
}
WAIVED_IN_DEVELOPMENT = {"CL-0026": "limits are production's; on a laptop they would only slow it down"}


def linted(*command: str | Path, file: Path) -> Any:
    """What a linter found, as JSON."""
    done = subprocess.run([*command, file], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def assert_waived(found: dict[str, str], waived: dict[str, str]) -> None:
    """found: rule to message."""
    assert {rule: message for rule, message in found.items() if rule not in waived} == {}
    assert waived.keys() <= found.keys(), "waived, and found no more"


def test_the_dockerfile_passes_hadolint() -> None:
    found = linted(BIN / "hadolint", "--format", "json", file=ROOT / "api" / "Dockerfile")

    assert_waived({each["code"]: f"line {each['line']}: {each['message']}" for each in found}, WAIVED_IN_DOCKERFILE)


@pytest.mark.parametrize(
    ("env", "waived"),
    [
        ({}, WAIVED_IN_NGINX | WAIVED_WITH_NAMES),
        ({"NGINX_UPSTREAMS": "127.0.0.1:1,127.0.0.1:2", "NGINX_BALANCE": "hash"}, WAIVED_IN_NGINX),
        ({"NGINX_UPSTREAMS": "127.0.0.1:1", "NGINX_TLS_CERTIFICATE": "tls.crt"}, WAIVED_IN_NGINX),
    ],
)
def test_the_configuration_of_nginx_passes_gixy(tmp_path: Path, env: dict[str, str], waived: dict[str, str]) -> None:
    if "NGINX_TLS_CERTIFICATE" in env:
        (tmp_path / "tls.crt").touch()  # so that tls.conf is taken; nginx itself would refuse it, and gixy only reads
        env = {**env, "NGINX_TLS_CERTIFICATE": str(tmp_path / "tls.crt")}
    environment = {**os.environ, "VENV": sys.prefix, "VAR": str(tmp_path), **env}
    subprocess.run([ROOT / "nginx" / "start", "-t"], env=environment, capture_output=True, check=False)
    rendered = tmp_path / "nginx" / "nginx.conf"
    assert (rendered.parent / "tls.conf").exists() == ("NGINX_TLS_CERTIFICATE" in env)

    found = linted(BIN / "gixy-next", "--format", "json", file=rendered)

    assert_waived({each["plugin"]: each["reason"] for each in found}, waived)


@pytest.mark.parametrize(
    ("name", "waived"),
    [
        ("compose.prod.yaml", WAIVED_IN_COMPOSE),
        ("compose.override.yaml", WAIVED_IN_COMPOSE | WAIVED_IN_DEVELOPMENT),
    ],
)
def test_the_compose_files_pass_compose_lint(tmp_path: Path, name: str, waived: dict[str, str]) -> None:
    merged = tmp_path / "compose.yaml"
    merged.write_text(yaml.safe_dump(together(compose(), compose(name))))

    found = linted(BIN / "compose-lint", "check", "--format", "json", file=merged)

    assert found["errors"] == found["warnings"] == []
    assert_waived({each["rule_id"]: f"{each['service']}: {each['message']}" for each in found["findings"]}, waived)


def together(base: Any, more: Any) -> Any:
    """Two files as Compose merges them, as far as ours go: maps by key, lists one after the other."""
    if isinstance(base, dict) and isinstance(more, dict):
        return base | {key: together(base[key], value) if key in base else value for key, value in more.items()}
    return base + more if isinstance(base, list) and isinstance(more, list) else more


@pytest.mark.parametrize(
    ("linter", "name", "content", "rule"),
    [
        ("hadolint", "Dockerfile", "FROM python:latest\nRUN sudo x\n", '"DL3004"'),
        ("gixy-next", "nginx.conf", "http { server { location /a { alias /b/; } } }\n", "alias_traversal"),
        ("compose-lint", "compose.yaml", "services: {a: {image: 'b:1', privileged: true}}\n", '"CL-0002"'),
    ],
)
def test_the_linters_find_what_is_wrong(tmp_path: Path, linter: str, name: str, content: str, rule: str) -> None:
    (tmp_path / name).write_text(content)

    assert rule in json.dumps(linted(BIN / linter, "--format", "json", file=tmp_path / name))
