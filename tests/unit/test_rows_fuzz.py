"""Whatever bytes come as a body: rows, or a refusal that says why in one short line; and the same as a slow, plain
reader of JSON would say."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.errors import InvalidRequest, InvalidRows, ServingError, TooManyRows
from api.rows import Row, RowDecoder

MAX_ROWS = 4
FLAT = RowDecoder((3,), max_rows=MAX_ROWS)
IMAGE = RowDecoder((2, 2), max_rows=MAX_ROWS)
VALID = (
    b'{"features":[1,2.5,-3e2]}',
    b'{"features":[[1,2],[3,4]]}',
    b'{"instances":[[1,2.5,-3e2],[0,-0.0,1e-40]]}',
    b'{"instances":[[[1,2],[3,4]]]}',
)
TOKENS = (
    b'"features"', b'"instances"', b'"feat\\u0075res"', b'"features":[1,2,3],', b"[", b"]", b"{", b"}", b",", b":",
    b"1", b"1,", b"-0.0", b"1e39", b"1e999", b"1e-9999", b"-", b"+1", b"01", b"1.", b".5", b"1" * 400,
    b"0." + b"1" * 400, b"NaN", b"Infinity", b"null", b"true", b'"1"', b'"\\ud800"', b"\\", b"/*1*/",
    b" ", b"\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"[" * 2000, b'{"a":' * 2000,
)  # fmt: skip

tokens = st.lists(st.sampled_from(TOKENS), max_size=12).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good body with something put into it, taken out of it, or said twice."""
    body = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 8)))
        body[start:end] = draw(
            st.one_of(st.binary(max_size=3), st.sampled_from(TOKENS), st.just(bytes(body[start:end]) * 2))
        )
    return bytes(body)


bodies = st.one_of(st.binary(max_size=64), tokens, damaged())


def rows_of(decoder: RowDecoder, body: bytes, *, many: bool) -> list[Row] | ServingError:
    """Any other exception would be a 500."""
    try:
        return decoder.many(body) if many else [decoder.one(body)]
    except (InvalidRequest, InvalidRows, TooManyRows) as refusal:
        return refusal


def plainly_read(body: bytes, shape: tuple[int, ...], *, many: bool) -> list[np.ndarray[Any, Any]] | None:
    """The rows, by json and numpy; None where there is anything to refuse."""
    field = "instances" if many else "features"
    try:
        value = json.loads(body.decode(), parse_constant=_refuse, object_pairs_hook=_each_once)
        if not isinstance(value, dict) or value.keys() != {field}:
            return None
        rows = value[field] if many else [value[field]]
        if not isinstance(rows, list) or not 0 < len(rows) <= (MAX_ROWS if many else 1):
            return None
        return [_array(row, shape) for row in rows]
    except (ValueError, RecursionError, OverflowError):
        return None


def _refuse(text: str) -> None:
    raise ValueError(text)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("twice")
    return dict(pairs)


def _array(row: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    flat = list(_numbers(row, shape))
    with np.errstate(over="ignore"):
        array = np.array(flat, dtype=np.float64).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError("range")
    return array + np.float32(0)


def _numbers(value: Any, shape: tuple[int, ...]) -> Any:
    if not shape:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(float(value)):
            raise ValueError("no number")
        yield float(value)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ValueError("shape")
    for inner in value:
        yield from _numbers(inner, shape[1:])


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(("decoder", "shape"), [(FLAT, (3,)), (IMAGE, (2, 2))])
@settings(max_examples=500, deadline=None)
@example(body=VALID[0])
@example(body=VALID[1])
@example(body=VALID[2])
@example(body=VALID[3])
@example(body=b'{"features":[1,2,3],"feat\\u0075res":[1,2,3]}')
@example(body=b'{"instances":[[1,2,3]],"instances":[[1,2,3]]}')
@given(body=bodies)
def test_a_body_is_rows_or_a_short_refusal_as_a_plain_reader_has_it(
    decoder: RowDecoder, shape: tuple[int, ...], many: bool, body: bytes
) -> None:
    got = rows_of(decoder, body, many=many)
    expected = plainly_read(body, shape, many=many)

    if isinstance(got, ServingError):
        assert expected is None, got
        assert 0 < len(str(got)) < 1000
    else:
        assert expected is not None, got
        assert [row.canonical for row in got] == [array.astype("<f4").tobytes() for array in expected]
        for row, array in zip(got, expected, strict=True):
            assert np.float32(json.loads(row.text)).ravel().tolist() == array.tolist()
            assert len(row.text) <= 32 * 4 + 4


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b"x" * 1_000_000 + b'":1}',
        b'{"features":["' + b"x" * 1_000_000 + b'"]}',
        b'{"features":[1,2,' + b"9" * 1_000_000 + b"]}",
        b'{"features":' + b"[" * 1_000_000,
        b'{"features":[1,2,3],"' + "é\u2028".encode() * 100_000 + b'":1}',
        b'{"features":[1,2,3],"a\\nb":1}',
        b"\xff" * 1_000_000,
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_a_refusal_repeats_no_body(body: bytes, many: bool) -> None:
    refusal = rows_of(FLAT, body, many=many)

    assert isinstance(refusal, ServingError)
    assert len(str(refusal)) < 1000
