"""Bodies to rows: what is taken, what is refused and in which words."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InvalidRequest, InvalidRows, TooManyRows
from api.rows import Row, RowDecoder

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def flat() -> RowDecoder:
    return RowDecoder([3], max_rows=4)


@pytest.fixture(scope="module")
def image() -> RowDecoder:
    return RowDecoder([2, 2], max_rows=4)


def test_a_row_is_float32_in_row_major_order(image: RowDecoder) -> None:
    row = image.one(b'{"features": [[1, 2.5], [3, 4]]}')

    assert np.frombuffer(row.canonical, "<f4").tolist() == [1, 2.5, 3, 4]
    assert json.loads(row.text) == [[1, 2.5], [3, 4]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"features":[1,2]}', "expected 3 features per row, got 2 (features)"),
        (b'{"features":[1,2,3,4]}', "expected 3 features per row, got 4 (features)"),
        (b'{"features":[]}', "expected 3 features per row, got 0 (features)"),
        (b'{"features":[1,2,"3"]}', "expected a number, got a string (features[2])"),
        (b'{"features":[1,null,3]}', "expected a number, got null (features[1])"),
        (b'{"features":[1,true,3]}', "expected a number, got bool (features[1])"),
        (b'{"features":[[1],2,3]}', "expected a number, got a list (features[0])"),
        (b'{"features":"1,2,3"}', "expected a list, got a string (features)"),
        (
            b'{"features":[1,2,1e39]}',
            "expected finite float32 numbers, of at most 3.402823e+38, got 1e+39 (features[2])",
        ),
        (b'{"features":[1,2,-1e400]}', "expected a finite float32 number, got a larger one (features[2])"),
        (b'{"features":[1,2,' + b"9" * 400 + b"]}", "expected a finite float32 number, got a larger one (features[2])"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(flat: RowDecoder, body: bytes, message: str) -> None:
    with pytest.raises(InvalidRows) as refused:
        flat.one(body)

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "truncated"),
        (b"[1,2,3]", "expected an object, got a list"),
        (b"{}", "missing the required field features"),
        (b'{"feature":[1,2,3]}', "unknown field feature"),
        (b'{"features":[1,2,3],"model":"x"}', "unknown field model"),
        (b'{"features":[1,2,NaN]}', "NaN and Infinity are not JSON"),
        (b'{"features":[1,2,-Infinity]}', "NaN and Infinity are not JSON"),
        (b'{"features":[1,2,3]} ;', "trailing characters"),
        (b'{"features":[1,2,3],"features":[1,2,3]}', "expected each field once, got 'features' 2 times"),
        (b'{"features":[1,2,3],"fe\\u0061tures":[1,2,3]}', "expected each field once, got 'features' 2 times"),
        (b"\xff\xfe", "malformed"),
        (b'{"' + b"\xff" + b'":1}', "expected"),
        (b"[" * 100_000, "expected"),
        (b'{"x":' + b"[" * 100_000, "expected"),
    ],
)
def test_a_body_that_is_no_request_is_refused(flat: RowDecoder, body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        flat.one(body)

    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"features":[[1,2]]}', "expected a list of 2 for a shape of 2x2, got 1 (features)"),
        (b'{"features":[[1,2],[3]]}', "expected a list of 2 for a shape of 2, got 1 (features[1])"),
        (b'{"features":[1,2,3,4]}', "expected a list, got int (features[0])"),
        (b'{"features":[[1,2],[3,[4]]]}', "expected a number, got a list (features[1][1])"),
    ],
)
def test_an_image_must_have_exactly_its_shape(image: RowDecoder, body: bytes, message: str) -> None:
    with pytest.raises(InvalidRows) as refused:
        image.one(body)

    assert str(refused.value) == message


def test_a_batch_says_which_row_does_not_fit(flat: RowDecoder) -> None:
    with pytest.raises(InvalidRows) as refused:
        flat.many(b'{"instances":[[1,2,3],[1,2]]}')

    assert str(refused.value) == "expected 3 features per row, got 2 (instances[1])"


def test_a_batch_has_at_least_one_row_and_at_most_the_limit(flat: RowDecoder) -> None:
    assert len(flat.many(b'{"instances":[[1,2,3],[1,2,3],[1,2,3],[1,2,3]]}')) == 4
    with pytest.raises(InvalidRows, match="at least 1 row in instances, got 0"):
        flat.many(b'{"instances":[]}')
    with pytest.raises(TooManyRows, match="at most 4 rows in one request, got 5"):
        flat.many(b'{"instances":[[1,2,3],[1,2,3],[1,2,3],[1,2,3],[1,2,3]]}')


@given(row=st.lists(FLOAT32, min_size=3, max_size=3))
def test_equal_rows_have_equal_bytes_however_they_are_spelled(flat: RowDecoder, row: list[float]) -> None:
    plain = flat.one(json.dumps({"features": row}).encode())
    spaced = flat.one(json.dumps({"features": row}, indent=3).encode())
    scientific = flat.one(('{"features":[' + ",".join(f"{number:.17e}" for number in row) + "]}").encode())
    positive_zero = flat.one(json.dumps({"features": [number + 0.0 for number in row]}).encode())

    assert plain.canonical == spaced.canonical == scientific.canonical == positive_zero.canonical
    assert np.array_equal(np.frombuffer(plain.canonical, "<f4"), np.array(row, np.float32))


EDGES = ["-0.0", "-1e-60", "1e-45", "7", "3.4028235e38", "3.4028235677973362e38", "1E2", "1e400", "3.5e38"]
NUMBERS = FLOAT32.map(repr) | st.sampled_from([*EDGES, "0." + "1" * 99])


@given(rows=st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=4))
def test_a_row_is_the_same_by_itself_and_among_others(image: RowDecoder, rows: list[list[str]]) -> None:
    texts = [f"[[{a}, {b}],\n[{c},{d}]]" for a, b, c, d in rows]

    def decoded(decode: Callable[[bytes], object], body: str) -> object:
        try:
            return decode(body.encode())
        except InvalidRows as refused:
            return str(refused).partition(" (")[0]  # where it stands differs

    alone = [decoded(image.one, f'{{"features":{text}}}') for text in texts]
    together = decoded(image.many, f'{{"instances":[{",".join(texts)}]}}')

    if isinstance(together, list):
        assert [row.canonical for row in together] == [row.canonical for row in alone if isinstance(row, Row)]
        for row, text in zip(together, texts, strict=True):
            assert json.loads(row.text) == json.loads(text)  # the numbers as they came
            assert len(row.text) <= 32 * 4
    else:
        assert together in alone


def test_minus_zero_is_zero_and_a_denormal_is_not(flat: RowDecoder) -> None:
    def canonical(third: str) -> bytes:
        return flat.one(b'{"features":[1,2,%b]}' % third.encode()).canonical

    assert canonical("-0.0") == canonical("0") == canonical("-1e-60")  # too small for a float32: it rounds to -0.0
    assert canonical("1e-45") != canonical("0")


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_row_or_a_clear_refusal(flat: RowDecoder, body: bytes) -> None:
    for decode in (flat.one, flat.many):
        try:
            decode(body)
        except (InvalidRequest, InvalidRows) as refused:
            assert str(refused)  # noqa: PT017  which of the two outcomes it is, is not known before
