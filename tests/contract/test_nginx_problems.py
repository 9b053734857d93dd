"""The problems that nginx answers by itself: in the README, and at one with those of the replicas."""

from __future__ import annotations

import re

from api import problems
from tests.contract.files import ROOT

CONF = (ROOT / "nginx" / "conf.d" / "api.conf").read_text()
README = (ROOT / "README.md").read_text()


def by_status(variable: str) -> dict[str, str]:
    """What the map that makes this variable has for each status, and for `default`."""
    [block] = re.findall(rf"^map \$status \${variable} \{{(.*?)^\}}", CONF, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r'^\s*(\d{3}|default) "(.*)";', block, re.MULTILINE))


SLUGS = by_status("problem_slug")


def test_the_readme_lists_every_problem_of_nginx() -> None:
    listed = set(re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", README, re.MULTILINE))
    assert {(status, slug) for status, slug in SLUGS.items() if status != "default"} <= listed


def test_every_status_has_a_title_and_a_detail() -> None:
    assert by_status("problem_title").keys() == by_status("problem_detail").keys() == SLUGS.keys()


def test_every_status_is_answered_with_a_problem() -> None:
    everywhere, replicas = (set(codes.split()) for codes in re.findall(r"error_page ([\d ]+) /problem\.json;", CONF))
    assert everywhere == SLUGS.keys() - {"default"} | {"500"}
    assert replicas == everywhere - {"502"}  # which starts anew; if that fails too, the first list holds


def test_a_slug_that_replicas_use_too_has_their_status() -> None:
    of_replicas = {problem.slug: str(problem.status) for problem in problems.ALL}
    shared = {(status, slug) for status, slug in SLUGS.items() if slug in of_replicas and status != "default"}
    assert len(shared) >= 4
    assert shared <= {(status, slug) for slug, status in of_replicas.items()}
    assert SLUGS["default"] == problems.INTERNAL.slug
