"""From the pieces of an upload, as they arrive, to the rows in it: JSON, NDJSON or CSV, in bounded memory.

What is cut out here is not looked at closely: that is done to many rows at a time, by `RowDecoder`, in intake.py.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from api.errors import InvalidRequest, InvalidRows

MAX_ROW_BYTES = 1024 * 1024
"""A row is held as a whole; nothing more than that and the piece it came in is."""


class Format(Protocol):
    """Cuts an upload into rows, each the JSON of one (nested) list. Raises InvalidRequest, InvalidRows."""

    def feed(self, piece: bytes) -> list[bytes]:
        """The rows that are complete with this piece."""

    def end(self) -> list[bytes]:
        """Those that are complete with the end."""


def of(media_type: str, shape: Sequence[int], features: Sequence[str] | None) -> Format | None:
    """By the essence of a content type; None for one that is not understood.

    shape: of the model's input. features: their names, if the model's manifest has them.
    """
    match media_type:
        case "application/json":
            return Json(len(shape))
        case "application/x-ndjson" | "application/jsonl" | "application/x-jsonlines" | "application/jsonlines":
            return NdJson()
        case "text/csv":
            return Csv(shape, features)
    return None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    features: msgspec.Raw


class NdJson:
    """A line is a row, or `{"features": row}` as /predict takes it."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._features = msgspec.json.Decoder(_Line)

    def feed(self, piece: bytes) -> list[bytes]:
        return [self._row(line) for line in self._lines.feed(piece)]

    def end(self) -> list[bytes]:
        return [self._row(line) for line in self._lines.end()]

    def _row(self, line: bytes) -> bytes:
        if not line.startswith(b"{"):
            return line
        try:
            return bytes(self._features.decode(line).features)
        except msgspec.MsgspecError:
            return line  # what it is instead of a row is said where rows are looked at


class Json:
    """`{"instances": [row, …]}` as /predict/batch takes it, or only the list."""

    _HEAD = re.compile(rb'\s*+(?:\{\s*+"instances"\s*+:\s*+)?+\[')
    _BETWEEN = re.compile(rb"[\s,]*+")
    _TAIL = re.compile(rb"\s*+(?:\}\s*+)?")
    _HEAD_BYTES = 1024

    def __init__(self, dimensions: int) -> None:
        # The list of a row, whatever stands in its innermost lists. Each repetition is possessive: linear in any case.
        row = rb'\[[^\[\]"{}]*+\]'
        for _ in range(dimensions - 1):
            row = rb"\[(?>[\s,]*+" + row + rb")*+[\s,]*+\]"
        self._next = re.compile(rb"\s*+(?P<row>" + row + rb")\s*+(?P<then>[,\]])")
        self._decoder = json.JSONDecoder()
        self._rest = b""
        self._state = "head"
        self._is_object = False
        self._any = False

    def feed(self, piece: bytes) -> list[bytes]:
        buffer = self._rest + piece
        if self._state == "head":
            found = self._HEAD.match(buffer)
            if found is None:
                self._rest = buffer
                if b"[" in buffer or len(buffer) > self._HEAD_BYTES:
                    raise InvalidRequest('expected {"instances": [row, …]} or [row, …], got something else')
                return []
            self._is_object = b"{" in found[0]
            self._state = "rows"
            buffer = buffer[found.end() :]
        if self._state == "rows":
            rows, at = self._rows(buffer)
            buffer = buffer[at:]
        else:
            rows = []
        self._rest = buffer
        if self._state == "tail" and len(buffer) > self._HEAD_BYTES:
            raise InvalidRequest("expected nothing after the list of rows, got more")
        return rows

    def end(self) -> list[bytes]:
        if self._state != "tail":
            raise InvalidRequest("expected a list of rows, and the body ended before it did")
        found = self._TAIL.fullmatch(self._rest)
        if found is None or (b"}" in found[0]) != self._is_object:
            raise InvalidRequest('expected {"instances": [row, …]} and nothing else, got more or less after the rows')
        return []

    def _rows(self, buffer: bytes) -> tuple[list[bytes], int]:
        rows: list[bytes] = []
        at = 0
        while found := self._next.match(buffer, at):
            rows.append(found["row"])
            at = found.end()
            if found["then"] == b"]":
                self._state = "tail"
                return rows, at
        if not rows and not self._any and (found := re.compile(rb"\s*+\]").match(buffer, at)):
            self._state = "tail"
            return rows, found.end()
        self._any = self._any or bool(rows)
        self._check(buffer[at:])
        return rows, at

    def _check(self, rest: bytes) -> None:
        """What is no row yet must be the beginning of one. One that never will be is refused once that can be seen."""
        text = rest.decode("utf-8", "replace").lstrip()
        try:
            value, end = self._decoder.raw_decode(text)
        except (ValueError, RecursionError) as error:
            if len(rest) > MAX_ROW_BYTES:
                raise InvalidRows(f"expected rows of at most {MAX_ROW_BYTES} bytes (NEXT)") from error
            return
        if text[end:].strip():  # else it may go on, or be followed by what belongs there
            raise InvalidRows(f"expected a list of numbers for each row, got {_name_of(value)} (NEXT)")


class Csv:
    """A line is a row, its numbers separated by commas. Its first line may name them, in any order if the model's
    manifest does too. Of a model with a nested input the numbers of a row come in row-major order."""

    def __init__(self, shape: Sequence[int], features: Sequence[str] | None) -> None:
        self._lines = Lines()
        self._shape = tuple(shape)
        self._features = list(features) if features else None
        self._order: list[int] | None = None
        self._is_first = True

    def feed(self, piece: bytes) -> list[bytes]:
        return self._rows(self._lines.feed(piece))

    def end(self) -> list[bytes]:
        return self._rows(self._lines.end())

    def _rows(self, lines: list[bytes]) -> list[bytes]:
        if lines and self._is_first:
            self._is_first = False
            cells = _cells(lines[0].removeprefix(b"\xef\xbb\xbf"))  # Excel begins with a byte order mark
            if cells and not any(map(_is_number, cells)):
                self._order = self._order_of(cells)
                lines = lines[1:]
        if len(self._shape) == 1 and self._order is None:
            return [b"[" + line + b"]" if _PLAIN.fullmatch(line) else self._row(line) for line in lines]
        return [self._row(line) for line in lines]

    def _order_of(self, names: list[str]) -> list[int] | None:
        names = [name.strip() for name in names]
        if self._features is None or names == self._features:
            return None
        if sorted(names) != sorted(self._features):
            raise InvalidRows(f"expected the columns {','.join(self._features)}, got {','.join(names)[:200]}")
        return [names.index(feature) for feature in self._features]

    def _row(self, line: bytes) -> bytes:
        cells = _cells(line)
        if self._order is not None and len(cells) == len(self._order):
            cells = [cells[place] for place in self._order]
        # What is no number stays what it is, text, and is refused where rows are looked at, with its place.
        numbers = [float(cell) if _is_number(cell) else cell for cell in cells]
        return json.dumps(_nested(numbers, self._shape)).encode()


class Lines:
    """Cuts pieces into lines, without their ends and without empty ones."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_ROW_BYTES:
            raise InvalidRows(f"expected rows of at most {MAX_ROW_BYTES} bytes (NEXT)")
        return [line for line in map(bytes.strip, lines) if line]

    def end(self) -> list[bytes]:
        line = self._rest.strip()
        return [line] if line else []


# What JSON and CSV have in common: most files hold nothing else, and need not be read number by number.
_NUMBER = rb"-?(?:0|[1-9]\d*+)(?:\.\d++)?+(?:[eE][+-]?\d++)?+"
_PLAIN = re.compile(_NUMBER + rb"(?:, ?" + _NUMBER + rb")*+")


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode()]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRows(f"expected numbers separated by commas: {error} (NEXT)") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _nested(numbers: list[float | str], shape: tuple[int, ...]) -> object:
    """As nested lists, if there are as many as it takes; else as they are."""
    size = 1
    for length in shape:
        size *= length
    if len(numbers) != size:
        return numbers
    level: list[object] = list(numbers)
    for length in reversed(shape[1:]):
        level = [level[at : at + length] for at in range(0, len(level), length)]
    return level


def _name_of(value: object) -> str:
    names = {
        dict: "an object",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
        list: "a list of something else",
    }
    return names.get(type(value), "a number")
