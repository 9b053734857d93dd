"""From a JSON body to rows: strict, exact about what is wrong, and canonical, so that equal rows have equal bytes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, NoReturn

import msgspec
import numpy as np

from api.errors import InvalidRequest, InvalidRows, TooManyRows

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_LONGEST = 200
_NEGATIVE_ZERO = b"\x00\x00\x00\x80"


class Row(NamedTuple):
    """One input of a model."""

    canonical: bytes
    """float32, little-endian, in row-major order; -0.0 is 0.0. What the model sees and the cache compares."""

    text: bytes
    """JSON of the numbers as they came. What the log keeps."""


class RowDecoder:
    """Decodes the bodies of one model version's requests.

    Faster than a pydantic body by the whole cost of one: `struct` converts, checks the float32 range and makes the
    cache's bytes in one call.
    """

    def __init__(self, shape: Sequence[int], *, max_rows: int) -> None:
        """shape: of one row; its nested lists in JSON must have exactly this shape."""
        self._shape = tuple(shape)
        self._size = math.prod(self._shape)
        self._max_rows = max_rows
        self._pack = struct.Struct(f"<{self._size}f").pack
        self._encode = msgspec.json.Encoder().encode
        row_type: Any = float
        for _ in self._shape:
            row_type = list[row_type]
        self._one = _decoder("features", row_type)
        self._many = _decoder("instances", list[row_type])
        texts: Any = msgspec.defstruct("Body", [("instances", list[msgspec.Raw])])
        self._texts = msgspec.json.Decoder(texts).decode

    def one(self, body: bytes) -> Row:
        """`{"features": <row>}`.

        Raises:
            InvalidRequest: not such a JSON object.
            InvalidRows: the row does not fit: shape, type or range.
        """
        row = self._one(body).features
        plain = len(self._shape) == 1 and len(row) == self._size
        numbers = row if plain else self._flat([row], lambda _: "features")
        try:
            canonical = self._pack(*numbers)
        except OverflowError:
            _refuse_range(numbers, "features")
        if _NEGATIVE_ZERO in canonical:
            # -0.0 == 0.0 but their bytes differ; without this, equal rows would miss each other in the cache.
            canonical = (np.frombuffer(canonical, dtype="<f4") + np.float32(0)).tobytes()
        return Row(canonical, self._encode(row))

    def many(self, body: bytes) -> list[Row]:
        """`{"instances": [<row>, …]}`, at least one row. Raises as `one`, and TooManyRows."""
        rows = self._many(body).instances
        if not rows:
            raise InvalidRows("expected at least 1 row in instances, got 0")
        if len(rows) > self._max_rows:
            raise TooManyRows(f"expected at most {self._max_rows} rows in one request, got {len(rows)}")
        numbers = np.fromiter(self._flat(rows, lambda index: f"instances[{index}]"), np.float64, len(rows) * self._size)
        with np.errstate(over="ignore"):
            # All rows at once, with -0.0 made 0.0 as in `one`: a third of what it costs one by one.
            canonical = numbers.astype("<f4") + np.float32(0)
        if not np.isfinite(canonical).all():
            index = int(np.isfinite(canonical).argmin()) // self._size
            _refuse_range(numbers[index * self._size : (index + 1) * self._size].tolist(), f"instances[{index}]")
        packed = canonical.tobytes()
        width = 4 * self._size
        return [
            Row(packed[index * width : (index + 1) * width], self._text(bytes(text), row))
            for index, (text, row) in enumerate(zip(self._texts(body).instances, rows, strict=True))
        ]

    def _text(self, text: bytes, row: list[Any]) -> bytes:
        """The row as it came, where that is plain: 1e-9999 is four digits here and ten thousand in Postgres."""
        if len(text) <= 32 * self._size and b"e" not in text and b"E" not in text:
            return text
        return self._encode(row)

    def _flat(self, rows: list[Any], where: Callable[[int], str]) -> list[float]:
        """All numbers of all rows. where: the place of a row, for the error."""
        level = rows
        for size in self._shape:
            if set(map(len, level)) != {size}:
                for index, row in enumerate(rows):
                    _check_shape(row, self._shape, where(index))
            level = list(chain.from_iterable(level))
        return level


def _decoder(field: str, of: Any) -> Callable[[bytes], Any]:
    """A decoder of `{field: of}` that takes that object and nothing else."""
    body_type = msgspec.defstruct("Body", [(field, of)], forbid_unknown_fields=True)
    decode = msgspec.json.Decoder(body_type).decode
    name = b'"%b"' % field.encode()

    def strict(body: bytes) -> Any:
        try:
            decoded = decode(body)
        except msgspec.ValidationError as error:
            _refuse(str(error), field)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            hint = " (NaN and Infinity are not JSON)" if b"NaN" in body or b"Infinity" in body else ""
            raise InvalidRequest(f"expected a JSON object, got something else: {error}{hint}") from error
        except RecursionError as error:
            raise InvalidRequest("expected a JSON object, got one nested too deep") from error
        # JSON leaves it open which of two equal names wins, so nobody can know what was asked. The decoder keeps
        # the last in silence. Only these two spellings could hide a second one.
        if body.count(name) > 1 or b"\\" in body:
            json.loads(body, object_pairs_hook=_refuse_duplicates)
        return decoded

    return strict


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"expected each field once, got {twice!r} {names.count(twice)} times")
    return fields


def _refuse(message: str, field: str) -> NoReturn:
    """Puts a decoder's message, "Expected `float`, got `str` - at `$.features[0]`", in our words."""
    message, _, where = message.partition(" - at `$")
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}…"  # the name of an unknown field may be as long as the body
    message = message.replace("`", "").replace("Expected float", "expected a number").replace("Expected", "expected")
    message = message.replace("Number out of range", "expected a finite float32 number, got a larger one")
    message = message.replace("Object contains unknown", "got an unknown").replace("Object missing", "missing the")
    message = message.replace("array", "a list").replace("got str", "got a string").replace("object", "an object")
    where = where.rstrip("`").lstrip(".")
    if not where:
        raise InvalidRequest(f'{message}; expected {{"{field}": […]}}')
    raise InvalidRows(f"{message} ({where})")


def _refuse_range(numbers: Sequence[float], where: str) -> NoReturn:
    for index, number in enumerate(numbers):
        if not abs(number) <= _FLOAT32_MAX:
            raise InvalidRows(
                f"expected finite float32 numbers, of at most {_FLOAT32_MAX:.7g}, got {number!r} ({where}[{index}])"
            )
    raise InvalidRows(f"expected finite float32 numbers ({where})")


def _check_shape(nested: Any, shape: tuple[int, ...], where: str, *, of_row: bool = True) -> None:
    if len(nested) != shape[0]:
        if of_row and len(shape) == 1:
            raise InvalidRows(f"expected {shape[0]} features per row, got {len(nested)} ({where})")
        expected = "x".join(map(str, shape))
        raise InvalidRows(f"expected a list of {shape[0]} for a shape of {expected}, got {len(nested)} ({where})")
    if len(shape) > 1:
        for index, inner in enumerate(nested):
            _check_shape(inner, shape[1:], f"{where}[{index}]", of_row=False)
