"""Imports run one way, so any file can be read knowing only what lies to its right."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = ROOT / "api"

LAYERS = [
    {"app", "protocol"},
    {"middleware", "handlers", "openapi"},
    {"routes"},
    {"dependencies", "lifespan", "replies"},
    {"replica", "problems", "schemas"},
    {"in_flight", "access"},
    {"context", "jobs"},
    {"predictor"},
    {"flights", "hangs"},
    {"batching", "prediction_log", "models", "cache", "rows", "answers", "processes"},
    {"circuits"},
    {"settings", "logs", "metrics", "errors"},
    {"tallies"},
]
"""A module imports from its own row or from one further down, never upwards."""

APART = {
    "local",
    "training",
    "worker",
    "job_worker",
    "job_commands",
    "flush_command",
    "gunicorn",
    "__main__",
    "__init__",
}
"""Programs of their own: how a replica is started, the command line, what made the shipped models."""

KNOWS_HTTP = {
    "app",
    "protocol",
    "middleware",
    "handlers",
    "openapi",
    "routes",
    "dependencies",
    "replies",
    "problems",
    "context",
    "schemas",
}


def layer_of(part: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def part_of(file: Path) -> str:
    return file.relative_to(API).parts[0].removesuffix(".py").partition(".")[0]


def files() -> list[Path]:
    return [file for file in sorted(API.rglob("*.py")) if part_of(file) not in APART]


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "api":
                yield from (f"api.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_every_part_has_its_place() -> None:
    placed = set().union(*LAYERS) | APART
    assert {part_of(file) for file in API.rglob("*.py")} <= placed


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(API)))
def test_imports_point_one_way(file: Path) -> None:
    own = layer_of(part_of(file))
    for module in imported(file):
        parts = module.split(".")
        if parts[0] == "api" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] not in APART, f"{file.name} imports {module}"
            assert layer_of(parts[1]) >= own, f"{file.name} imports {module}, which lies above it"


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(API)))
def test_only_http_modules_know_http_and_only_the_runtime_knows_torch(file: Path) -> None:
    used = {module.split(".")[0] for module in imported(file)}
    if part_of(file) not in KNOWS_HTTP | {"lifespan"}:
        assert not used & {"fastapi", "starlette", "fastapi_offline"}
    if part_of(file) != "models":
        assert "torch" not in used
