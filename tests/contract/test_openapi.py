"""The API's description is complete, its examples run, and it changes only on purpose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import build_app
from api.models.repository import Repository
from api.settings import Settings

SNAPSHOT = Path(__file__).with_name("openapi.json")


def describe() -> dict[str, Any]:
    described: dict[str, Any] = build_app(Settings(), Repository({}, []), {}).openapi()
    return described


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return describe()


def test_it_is_what_it_was(description: dict[str, Any]) -> None:
    """After a change on purpose: `make openapi` writes the snapshot anew; read its diff as a client would."""
    assert json.loads(SNAPSHOT.read_text()) == json.loads(json.dumps(description))


def operations(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_operation_parameter_and_field_is_described(description: dict[str, Any]) -> None:
    missing = [name for name, operation in operations(description) if not operation.get("description")]
    for name, operation in operations(description):
        missing += [
            f"{name} {parameter['name']}"
            for parameter in operation.get("parameters", [])
            if not parameter.get("description")
        ]
    for name, schema in description["components"]["schemas"].items():
        if "HTTPValidationError" in name or "ValidationError" in name:
            continue
        missing += [
            f"{name}.{field}" for field, of in schema.get("properties", {}).items() if not of.get("description")
        ]
    assert missing == []


def test_every_operation_lists_its_errors_as_problems(description: dict[str, Any]) -> None:
    for name, operation in operations(description):
        for status, response in operation["responses"].items():
            if status[0] in "45" and "/health" not in name:
                assert list(response["content"]) == ["application/problem+json"], f"{name} {status}"
    predict = description["paths"]["/predict"]["post"]["responses"]
    assert set(predict) == {"200", "400", "404", "413", "415", "422", "429", "500", "503", "504"}


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(describe(), indent=1) + "\n")
