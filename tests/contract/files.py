"""The files that contracts are read off."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent


def compose_files() -> list[Path]:
    return sorted(ROOT.glob("compose*.yaml"))


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    """One compose file as written: anchors resolved, variables not filled in."""
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def dockerfile_arguments() -> dict[str, str]:
    """Build arguments of the image, to their defaults."""
    return dict(re.findall(r"^ARG ([A-Z_]+)=(.*)$", (ROOT / "api" / "Dockerfile").read_text(), re.MULTILINE))


def nginx_defaults() -> dict[str, str]:
    """What nginx/start takes from the environment, to its defaults."""
    return dict(re.findall(r'^: "\$\{([A-Z_]+):=(.*)\}"$', (ROOT / "nginx" / "start").read_text(), re.MULTILINE))
