"""What a model says of itself: model.yaml, once a model, and version.yaml, beside each artefact."""

from __future__ import annotations

import datetime
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""A name of a model or version: it stands in URLs, in file paths and in metric labels."""

TOLERANCES = {"float32": 1e-4}
"""By dtype, how far an output may be from what another run gives for the same row, in parts of the greatest output: in
batches of another size, or as another program of the same model, sums are added up in another order."""


def _whole_number_as_text(value: object) -> object:
    # `default_version: 2` is what anyone would write. 1.10 must be quoted, as YAML reads it as 1.1: so no floats.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
VersionName = Annotated[Name, BeforeValidator(_whole_number_as_text)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]  # Postgres has no text with a NUL in it
Positive = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A mistyped key is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Feature(Strict):
    name: Text
    """Name of one number of a row."""

    unit: str | None = None
    """Its unit; None where it has none."""

    description: str | None = None
    """What it measures."""


class InputSpec(Strict):
    name: Text
    """Name of the input tensor."""

    dtype: Literal["float32"] = "float32"
    """Its type."""

    shape: tuple[Positive, ...] = Field(min_length=1)
    """Shape of one row, without the batch dimension."""

    features: list[Feature] | None = None
    """What each number of a row is, where a row is a plain list."""

    @model_validator(mode="after")
    def _has_a_feature_for_each_number(self) -> Self:
        if self.features is not None and self.shape != (len(self.features),):
            raise ValueError(f"shape is {list(self.shape)}, but {len(self.features)} features are named")
        return self


class Output(Strict):
    name: Text
    """Name of one predicted value."""

    unit: str | None = None
    """Its unit; None where it has none."""


class DataSource(Strict):
    name: Text
    """What the model was trained on."""

    url: str | None = None
    """Where it is described."""

    licence: Text
    """The terms it comes under."""


class Manifest(Strict):
    """model.yaml."""

    name: Name
    """Name of the model: the same as its directory."""

    description: Text
    """What it predicts, in a sentence."""

    task: Literal["classification", "regression"]
    """A classification gives the probability of each class, a regression the value of each output."""

    input: InputSpec
    """What a row looks like."""

    classes: list[Text] | None = Field(None, min_length=2)
    """Labels of a classification, in the order of the program's output."""

    outputs: list[Output] | None = Field(None, min_length=1)
    """Values of a regression, in the order of the program's output."""

    preprocessing: Text
    """What the program does with the numbers as they come, so that a caller need not."""

    default_version: VersionName
    """The version that answers where a request names none."""

    data: DataSource
    """What it was trained on."""

    example: list[Any]
    """A row as a request would have it."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.classes is not None, self.outputs is not None) != (
            self.task == "classification",
            self.task == "regression",
        ):
            raise ValueError("a classification has classes and no outputs, a regression outputs and no classes")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same label")
        _check_row(self.example, self.input.shape)
        return self

    @property
    def output_width(self) -> int:
        """Numbers that the program gives for a row."""
        return len(self.classes or self.outputs or ())


class VersionManifest(Strict):
    """version.yaml."""

    format: Literal["pt2"] = "pt2"
    """Format of the artefact: a program of torch.export, saved as model.pt2."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Digest of the artefact."""

    description: Text
    """What tells this version from the others."""

    created: datetime.date
    """When it was made."""

    seed: int | None = None
    """Seed of its training; None where there was none."""

    metrics: dict[str, float] = Field(default_factory=dict)
    """What was measured on rows held out from training."""

    training: Text
    """How it was made: the script, the split, the time."""

    max_batch_rows: int | None = Field(None, ge=1)
    """Most rows that the program takes at once; None where it takes any number."""


def _check_row(row: Any, shape: tuple[int, ...], where: str = "example") -> None:
    if not shape:
        if isinstance(row, bool) or not isinstance(row, int | float) or not math.isfinite(row):
            raise ValueError(f"{where} is not a finite number")
        return
    if not isinstance(row, list) or len(row) != shape[0]:
        got = f"{len(row)}" if isinstance(row, list) else type(row).__name__
        raise ValueError(f"{where} should be a list of {shape[0]}, got {got}")
    for index, item in enumerate(row):
        _check_row(item, shape[1:], f"{where}[{index}]")
