"""Rows are checked together, and named one by one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InvalidRows
from api.jobs.intake import check
from api.rows import RowDecoder

DECODE = RowDecoder((3,), max_rows=256).many
GOOD = b"[1.0,2.0,3.0]"


def test_rows_that_fit_are_kept_as_they_came() -> None:
    assert [row.text for row in check(DECODE, [GOOD, b"[1, 2e0, -0.0]"], 0)] == [GOOD, b"[1.0,2.0,-0.0]"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"[1.0,2.0]", r"expected 3 features per row, got 2 \(row 1007\)"),
        (b'[1.0,"x",3.0]', r"expected a number, got a string \(row 1007\[1\]\)"),
        (b"[1.0,1e39,3.0]", r"expected finite float32 numbers.*\(row 1007\[1\]\)"),
        (b"[1.0,NaN,3.0]", r"\(row 1007\)"),
        (b"1.0,2.0,3.0", r"\(row 1007\)"),
        (b"[1.0,2.0,3.0],[1.0,2.0,3.0]", r"expected one row, got several \(row 1007\)"),
        (b"", r"\(row 1007\)"),
        (b"\xff", r"\(row 1007\)"),
    ],
)
def test_one_that_does_not_is_named_by_its_index_in_the_job(row: bytes, message: str) -> None:
    with pytest.raises(InvalidRows, match=message):
        check(DECODE, [GOOD] * 7 + [row] + [GOOD] * 5, 1000)


@given(st.lists(st.sampled_from([b"[1,2,3]", b"[1,2", b"3]", b"[1,2,3],[4,5,6]", b"", b"[[1,2,3]", b"]"]), min_size=1))
def test_lines_are_rows_only_if_each_of_them_is_one(texts: list[bytes]) -> None:
    """Joined with commas, pieces of rows may look like rows."""
    if all(text == b"[1,2,3]" for text in texts):
        assert [json.loads(row.text) for row in check(DECODE, texts, 0)] == [[1, 2, 3]] * len(texts)
    else:
        with pytest.raises(InvalidRows):
            check(DECODE, texts, 0)
