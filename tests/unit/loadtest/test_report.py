from __future__ import annotations

from collections import Counter

import pytest

from loadtest.report import tables, with_section
from loadtest.shapes import Step
from loadtest.tally import Latencies, Tier
from loadtest.verdict import Judgement, Measured

TIERS = [
    Tier("local", 75, Latencies({2: 75}), Counter({100: 75})),
    Tier("miss", 25, Latencies({8: 25}), Counter({100: 5, 101: 20})),
]
MEASURED = Measured(100, 0, 10, Latencies({2: 75, 8: 25}), TIERS)
JUDGEMENTS = [Judgement("p95 <= 0.001 s", "0.008 s", False), Judgement("failures <= 0.000%", "0.000%", True)]


def test_the_terminal_gets_each_tiers_count_share_and_percentiles_and_then_the_verdict() -> None:
    cache, verdict = (table.text() for table in tables(MEASURED, JUDGEMENTS, [], "zipf on penguins"))

    assert cache.splitlines() == [
        "Cache: hit rate 75.00% (answers for which the model did not run again)",
        "tier   answers   share      p50      p95      p99",
        "-------------------------------------------------",
        "local       75  75.00%  0.002 s  0.002 s  0.002 s",
        "miss        25  25.00%  0.008 s  0.008 s  0.008 s",
    ]
    assert verdict.splitlines() == [
        "Verdict: zipf on penguins",
        "objective           measured  verdict",
        "-------------------------------------",
        "p95 <= 0.001 s       0.008 s   MISSED",
        "failures <= 0.000%    0.000%     kept",
    ]


def test_a_ramp_shows_its_steps_and_the_knee() -> None:
    steps = [Step(2, 100, Latencies({5: 9})), Step(4, 190, Latencies({5: 9})), Step(8, 200, Latencies({9: 9}))]

    [ramp, _] = tables(Measured(1, 0, 1, Latencies()), [], steps, "ramp")

    assert [row[0] for row in ramp.rows if "knee" in row[-1]] == ["4"]


def test_the_report_gets_the_verdict_the_hit_rates_and_the_chart_above_locusts_own() -> None:
    page = '<body><div id="root"></div><script></script></body>'

    shown = with_section(page, tables(MEASURED, JUDGEMENTS, [], "zipf <on> penguins"), TIERS)

    order = ["zipf &lt;on&gt; penguins", "hit rate 75.00%", "at most 80", "<rect", '<div id="root">']
    assert [shown.index(part) for part in order] == sorted(shown.index(part) for part in order)
    assert shown.count("<rect") == 3
    assert '<tr class="missed"><td>p95 &lt;= 0.001 s</td>' in shown


def test_a_run_without_answers_has_a_report_too() -> None:
    nothing = Measured(0, 0, 0, Latencies())

    shown = with_section('<div id="root"></div>', tables(nothing, JUDGEMENTS, [], "zipf"), [])

    assert "Verdict" in shown
    assert "<svg" not in shown


def test_a_page_that_is_not_locusts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Locust 2\.47"):
        with_section("<body></body>", tables(MEASURED, JUDGEMENTS, [], "zipf"), TIERS)
