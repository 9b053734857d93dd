"""Every error has its place in the table, and the README lists the table."""

from __future__ import annotations

import json
from pathlib import Path

from api import errors, problems

README = Path(__file__).parents[2] / "README.md"


def test_every_error_is_in_the_table() -> None:
    assert set(problems.PROBLEMS) == set(errors.ServingError.__subclasses__())


def test_slugs_are_unique() -> None:
    slugs = [problem.slug for problem in problems.ALL]
    assert len(set(slugs)) == len(slugs)


def test_the_readme_lists_every_problem() -> None:
    text = README.read_text()
    for problem in problems.ALL:
        assert f"| {problem.status} | `{problem.slug}` |" in text, problem.slug


def test_only_what_may_be_sent_again_says_when() -> None:
    assert errors.Overloaded("full", retry_after_seconds=7).retry_after_seconds == 7
    assert (b"retry-after", b"7") in problems.headers(errors.Overloaded("full", retry_after_seconds=7))
    assert errors.InvalidRows("no").retry_after_seconds is None
    assert b"retry-after" not in dict(problems.headers(errors.InvalidRows("no")))


def test_a_body_says_what_happened_and_which_request_it_was() -> None:
    body = json.loads(problems.body(problems.of(errors.InvalidRows("x")), "expected this, got that", "id-1"))

    assert body == {
        "type": "urn:shoal:problem:invalid-rows",
        "title": "A row does not fit the model",
        "status": 422,
        "detail": "expected this, got that",
        "request_id": "id-1",
    }
