"""However an upload is cut into pieces, the same rows come out of it, and what is no row is refused at its place."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InvalidRequest, InvalidRows
from api.jobs import formats
from api.jobs.formats import Csv, Format, Json, NdJson

NUMBERS = st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False, width=32)
ROWS = st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=20)
NAMES = ["bill", "depth", "flipper"]


def read(format: Format, body: bytes, cuts: list[int] | None = None) -> list[object]:
    """The rows of a body that comes in pieces, cut at those places."""
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts or ()), len(body)]
    rows = [row for start, end in pairwise(places) for row in format.feed(body[start:end])]
    return [json.loads(row) for row in [*rows, *format.end()]]


@given(rows=ROWS, cuts=st.lists(st.integers(0, 10_000)), indent=st.sampled_from([None, 0, 3]), bare=st.booleans())
def test_json_is_read_in_whatever_pieces_it_comes(
    rows: list[list[float]], cuts: list[int], indent: int | None, bare: bool
) -> None:
    body = json.dumps(rows if bare else {"instances": rows}, indent=indent).encode()
    assert read(Json(1), body, cuts) == rows


@given(rows=ROWS, cuts=st.lists(st.integers(0, 10_000)), end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_ndjson_is_read_in_whatever_pieces_it_comes(rows: list[list[float]], cuts: list[int], end: str) -> None:
    body = "".join(
        (json.dumps({"features": row}) if index % 2 else json.dumps(row)) + end for index, row in enumerate(rows)
    )
    assert read(NdJson(), body.encode(), cuts) == rows
    assert read(NdJson(), body.strip().encode(), cuts) == rows  # the last line need not end


@given(rows=ROWS, cuts=st.lists(st.integers(0, 10_000)), head=st.booleans())
def test_csv_is_read_in_whatever_pieces_it_comes(rows: list[list[float]], cuts: list[int], head: bool) -> None:
    lines = [",".join(map(repr, row)) for row in rows]
    body = "\r\n".join([",".join(NAMES), *lines] if head else lines).encode()
    assert read(Csv((3,), NAMES), body, cuts) == rows


def test_rows_may_be_nested() -> None:
    row = [[[1, 2], [3, 4]]]
    assert read(Json(3), json.dumps({"instances": [row, row]}).encode(), list(range(60))) == [row, row]
    assert read(Csv((1, 2, 2), None), b"1,2,3,4") == [row]


def test_a_list_without_rows_is_one() -> None:
    assert read(Json(1), b'{"instances": [ ] }') == []


def test_columns_of_csv_come_in_any_order() -> None:
    assert read(Csv((3,), NAMES), b"\xef\xbb\xbfflipper,bill,depth\n3,1,2\n") == [[1, 2, 3]]


def test_numbers_of_csv_are_spelled_as_spreadsheets_do() -> None:
    assert read(Csv((3,), None), b'+1,"2.5",.5\n') == [[1, 2.5, 0.5]]


def test_columns_of_another_model_are_refused() -> None:
    with pytest.raises(InvalidRows, match="expected the columns bill,depth,flipper, got a,b,c"):
        read(Csv((3,), NAMES), b"a,b,c\n1,2,3\n")


@pytest.mark.parametrize(
    "body",
    [
        b'{"rows": [[1]]}',
        b"nothing at all",
        b"[[1,2,3]",
        b'{"instances": [[1,2,3]]',
        b"[[1,2,3]]}",
        b'{"instances": [[1,2,3]], "model": "penguins"}',
        b"",
        b" " * 5000,
    ],
)
def test_json_that_is_no_list_of_rows_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(Json(1), body)


@pytest.mark.parametrize(
    ("row", "what"),
    [(b'{"a": 1}', "an object"), (b'"text"', "a string"), (b"null", "null"), (b"[[1]]", "something else")],
)
def test_json_with_something_else_among_its_rows_is_refused(row: bytes, what: str) -> None:
    with pytest.raises(InvalidRows, match=f"{what}.*NEXT"):
        read(Json(1), b"[[1,2,3]," + row + b",[1,2,3]]")


@pytest.mark.parametrize("form", [Json(1), NdJson(), Csv((3,), None)])
def test_a_row_without_an_end_is_refused_before_it_fills_the_memory(form: Format) -> None:
    form.feed(b"[[1.0," if isinstance(form, Json) else b"[1.0,")
    pieces = iter([b"1.0," * 16_384] * 100)
    with pytest.raises(InvalidRows, match="at most 1048576 bytes"):
        all(form.feed(piece) == [] for piece in pieces)
    assert len(list(pieces)) > 80


def test_a_media_type_says_which_format_it_is() -> None:
    assert isinstance(formats.of("application/json", (3,), None), Json)
    assert isinstance(formats.of("application/x-ndjson", (3,), None), NdJson)
    assert isinstance(formats.of("text/csv", (3,), None), Csv)
    assert formats.of("application/xml", (3,), None) is None
