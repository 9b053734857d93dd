from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from api.models.manifest import Manifest, VersionManifest
from api.models.repository import in_one_line


def test_a_manifest_is_what_it_says(fields: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(fields)

    assert manifest.input.shape == (2,)
    assert manifest.output_width == 2


def test_a_version_may_be_a_number_without_quotes(fields: dict[str, Any]) -> None:
    assert Manifest.model_validate(fields | {"default_version": 2}).default_version == "2"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"default_version": 1.1}, "default_version"),  # YAML reads 1.10 as 1.1
        ({"default_version": True}, "default_version"),
        ({"name": "../etc"}, "name"),
        ({"name": ".hidden"}, "name"),
        ({"typo": 1}, "typo"),
        ({"task": "classification"}, "a classification has classes"),
        ({"classes": ["a", "b"]}, "a regression outputs and no classes"),
        ({"task": "classification", "outputs": None, "classes": ["a", "a"]}, "the same label"),
        ({"task": "classification", "outputs": None, "classes": ["a"]}, "classes"),
        ({"outputs": []}, "outputs"),
        ({"input": {"name": "rows", "shape": []}}, "input.shape"),
        ({"input": {"name": "rows", "shape": [0]}}, "input.shape"),
        ({"input": {"name": "rows", "shape": [2], "dtype": "float64"}}, "input.dtype"),
        ({"input": {"name": "rows", "shape": [2], "features": [{"name": "a"}]}}, "1 features are named"),
        ({"example": [1]}, "example should be a list of 2, got 1"),
        ({"example": [1, [2]]}, "example[1] is not a finite number"),
        ({"example": [1, "2"]}, "example[1] is not a finite number"),
        ({"example": [1, True]}, "example[1] is not a finite number"),
        ({"example": [1, float("nan")]}, "example[1] is not a finite number"),
    ],
)
def test_a_manifest_that_does_not_fit_together_is_refused_in_one_line(
    fields: dict[str, Any], change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(fields | change)

    message = in_one_line(caught.value)
    assert complaint in message
    assert "\n" not in message


@pytest.mark.parametrize("sha256", ["", "abc", "A" * 64, "g" * 64])
def test_a_digest_is_64_lower_case_hex_digits(sha256: str) -> None:
    with pytest.raises(ValidationError, match="sha256"):
        VersionManifest.model_validate(
            {"sha256": sha256, "description": "x", "created": "2026-01-01", "training": "none"}
        )
