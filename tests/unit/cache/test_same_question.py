"""From a request's body to its key: equal questions share one however they are spelled, and no others do."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from api.cache.keys import KeySpace
from api.cache.sealed import seal_many, unseal
from api.rows import RowDecoder

DIGEST = "ab" * 32
# Denormals and both zeros among them.
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = float(np.finfo(np.float32).max)
MATRIX = st.lists(st.lists(FLOAT32, min_size=3, max_size=3), min_size=2, max_size=2)
BLANKS = st.text(" \t\r\n", max_size=2)

decoder = RowDecoder([2, 3], max_rows=4)
keys = KeySpace("penguins", "2", DIGEST)


def key_of(body: str) -> bytes:
    return keys.key(decoder.one(body.encode()).canonical)


def plain(matrix: list[list[float]]) -> str:
    return json.dumps({"features": matrix})


@st.composite
def spelled(draw: st.DrawFn, number: float) -> str:
    """One of the ways in which JSON can say exactly this number, or one that is nearest to it as a float32."""
    if number == 0:
        return draw(st.sampled_from(["0", "-0", "0.0", "-0.0", "0e5", "-0E-7", "0.000", "1e-60", "-1e-60"]))
    digits = draw(st.integers(9, 30))  # 9 tell any two of float32 apart
    forms = [
        repr(number),
        f"{number:.{digits}e}",
        f"{number:.{digits}E}".replace("E+", draw(st.sampled_from(["E+", "E", "e+0"]))),
        f"{np.float32(number):.9g}",
    ]
    if number == math.trunc(number) and abs(number) < 2**53:
        forms += [str(int(number)), f"{int(number)}.000", f"{int(number)}0e-1"]
    if abs(number) > 1e-30:
        forms.append(f"{number:.60f}")
    return draw(st.sampled_from(forms))


@given(data=st.data(), matrix=MATRIX)
def test_equal_rows_share_a_key_however_their_json_is_spelled(data: st.DataObject, matrix: list[list[float]]) -> None:
    def blank() -> str:
        return data.draw(BLANKS)

    def listed(parts: list[str]) -> str:
        return f"{blank()}[{','.join(f'{blank()}{part}{blank()}' for part in parts)}]{blank()}"

    features = listed([listed([data.draw(spelled(number)) for number in row]) for row in matrix])
    name = data.draw(st.sampled_from(["features", "\\u0066eatures", "fe\\u0061ture\\u0073"]))

    assert key_of(f'{{{blank()}"{name}"{blank()}:{features}}}{blank()}') == key_of(plain(matrix))


@given(one=MATRIX, other=MATRIX)
def test_other_numbers_never_share_a_key(one: list[list[float]], other: list[list[float]]) -> None:
    assert (key_of(plain(one)) == key_of(plain(other))) == (one == other)  # -0.0 == 0.0


@given(matrix=MATRIX, row=st.integers(0, 1), column=st.integers(0, 2), up=st.booleans())
def test_the_very_next_float_is_another_question(matrix: list[list[float]], row: int, column: int, up: bool) -> None:
    with np.errstate(under="ignore", over="ignore"):
        nearest = float(np.nextafter(np.float32(matrix[row][column]), np.float32(math.inf if up else -math.inf)))
    assume(math.isfinite(nearest))
    before = key_of(plain(matrix))
    matrix[row][column] = nearest

    assert key_of(plain(matrix)) != before


@given(matrix=MATRIX | st.just([[LARGEST] * 3] * 2), data=st.data())
def test_what_rounds_to_the_same_float32_is_the_same_question(matrix: list[list[float]], data: st.DataObject) -> None:
    """The model sees float32, and a client that computes in float64 sends more digits than it."""

    def nudged(number: float) -> float:
        below = np.nextafter(np.abs(np.float32(number)), np.float32(0))
        to_the_next = Fraction(float(np.spacing(below)))  # below it; above, it is as far or twice as far
        return float(Fraction(number) + Fraction(data.draw(st.integers(-49, 49)), 100) * to_the_next)

    assert key_of(plain([[nudged(number) for number in row] for row in matrix])) == key_of(plain(matrix))


@given(numbers=st.lists(FLOAT32, min_size=6, max_size=6))
def test_equal_bytes_of_another_shape_are_another_question(numbers: list[float]) -> None:
    """The bytes of a row do not say its shape: the digest of its model does (test_repository.py)."""
    wide = RowDecoder([2, 3], max_rows=1).one(json.dumps({"features": [numbers[:3], numbers[3:]]}).encode())
    high = RowDecoder([3, 2], max_rows=1).one(
        json.dumps({"features": [numbers[:2], numbers[2:4], numbers[4:]]}).encode()
    )

    assert wide.canonical == high.canonical
    assert keys.key(wide.canonical) != KeySpace("penguins", "2", "cd" * 32).key(high.canonical)


@given(rows=st.lists(MATRIX, min_size=1, max_size=4))
def test_a_row_has_one_key_alone_and_in_a_batch(rows: list[list[list[float]]]) -> None:
    batch = decoder.many(json.dumps({"instances": rows}).encode())

    assert [keys.key(row.canonical) for row in batch] == [key_of(plain(row)) for row in rows]


@given(
    outputs=st.lists(st.floats(width=32), min_size=2, max_size=2),
    one=st.binary(min_size=24, max_size=24),
    other=st.binary(min_size=24, max_size=24),
)
def test_an_answer_is_found_under_its_own_key_alone(outputs: list[float], one: bytes, other: bytes) -> None:
    output = np.array(outputs, np.float32)
    [(_, value)] = seal_many([keys.key(one)], output[np.newaxis])

    found = unseal(keys.key(one), value, 2)
    assert found is not None
    assert found.tobytes() == output.tobytes()  # infinities, NaN and -0.0 too, bit by bit
    assert (unseal(keys.key(other), value, 2) is None) == (one != other)


@given(value=st.binary(max_size=64), width=st.integers(1, 14))
def test_bytes_that_nobody_sealed_are_no_answer(value: bytes, width: int) -> None:
    assert unseal(keys.key(b"row!"), value, width) is None
