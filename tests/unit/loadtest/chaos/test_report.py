"""What people and programs read."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from loadtest.chaos import report
from loadtest.chaos.__main__ import parse
from loadtest.chaos.ground import Ground
from loadtest.chaos.ledger import BROKEN, Ledger
from loadtest.chaos.reconcile import Reckoning
from loadtest.chaos.scenario import Effort, Outcome, Scenario, must_not_fail, outcome
from loadtest.chaos.scenarios import SCENARIOS

MACHINE = {
    "cpu": "Some CPU", "cores": 2, "memory_bytes": 2**34, "kernel": "Linux 6", "python": "3.11",
    "fsync_seconds": 0.001, "load_before": 0.1, "revision": "abc",
}  # fmt: skip


def day(**counts: Any) -> report.Day:
    def never(ground: Ground, effort: Effort) -> Outcome:
        raise AssertionError

    statuses = Counter({429: 5, BROKEN: 2})
    made = outcome(Ledger(), Reckoning(requests=100, answered=93, statuses=statuses, **counts), 1.5)
    made.series = {"memory, MB": [(0, 1), (1, 3)]}
    return Scenario("a-bad-day", "Something <breaks>", "Nothing happens", never), made


def test_refusals_are_told_from_failures_and_a_kept_promise_from_a_broken_one() -> None:
    kept, broken = report.table([day(), day(lost=3)]).rows
    assert list(kept) == ["a-bad-day", "100", "2", "5", "0", "0", "0", "0.00 s", "1.5 s", "kept"]
    assert (broken[4], broken[-1]) == ("3", "MISSED")
    assert "a-bad-day: BROKEN: 3 answered and not in the log" in report.remarks([day(lost=3)])


@pytest.mark.parametrize("count", ["lost", "duplicated", "altered", "unasked", "wrong", "still_spooled"])
def test_whatever_is_wrong_with_the_log_breaks_a_promise(count: str) -> None:
    assert len(day(**{count: 1})[1].broken) == 1


def test_only_an_honest_no_is_no_failure() -> None:
    _, made = day()
    must_not_fail(made, but=frozenset({429}))
    assert made.broken == ["failed: 2 connection broken"]


def test_programs_get_it_as_json_and_people_as_a_page() -> None:
    days = [day(lost=3)]
    made = json.loads(json.dumps(report.as_json(days, MACHINE, {})))
    assert made["scenarios"][0]["statuses"] == {"connection broken": 2, "429": 5}
    assert made["scenarios"][0]["kept"] is False

    page = report.page(days, MACHINE)
    assert "Something &lt;breaks&gt;" in page
    assert "polyline" in page
    assert 'class="missed"' in page


def test_scenarios_are_chosen_by_the_beginning_of_their_names() -> None:
    assert [each.name for each in parse(["--only", "overload-d"]).scenarios] == ["overload-dear"]
    assert parse([]).scenarios == SCENARIOS
    assert len({each.name for each in SCENARIOS}) == len(SCENARIOS)
    assert 10 < len(parse(["--quick", "1"]).scenarios) < len(SCENARIOS)
    with pytest.raises(SystemExit):
        parse(["--only", "nothing"])


@pytest.mark.parametrize(("text", "seconds"), [("", 120), ("90", 90), ("90s", 90), ("30m", 1800)])
def test_the_soak_takes_as_long_as_is_said(text: str, seconds: float) -> None:
    assert parse(["--duration", text]).seconds == seconds
