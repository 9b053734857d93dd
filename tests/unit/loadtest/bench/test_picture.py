from __future__ import annotations

from xml.etree import ElementTree

import pytest

from loadtest.bench import picture
from loadtest.bench.results import Cell, Results, Round
from loadtest.bench.workloads import Case
from loadtest.bench.wrk import Load

MACHINE = {
    "cpu": "Z80 <made by hand>",
    "cores": 2,
    "memory_bytes": 2**30,
    "kernel": "Linux 6.1",
    "python": "3.11",
    "fsync_seconds": 0.001,
    "load_before": 0.0,
    "revision": "abc",
}


def cell(subject: str, requests: int, workload: str = "hit") -> Cell:
    return Cell("penguins", subject, Case("penguins", workload, 64), [Round(1, Load(requests, 1.0))])  # type: ignore[arg-type]


def drawn(*cells: Cell) -> tuple[list[str], dict[str, float]]:
    """The texts, and the lengths of the bars."""
    root = ElementTree.fromstring(picture.draw(Results(cells), MACHINE))
    texts = ["".join(node.itertext()) for node in root.findall("{*}text")]
    rects = [node.attrib for node in root.findall("{*}rect")]
    bars = {rect["class"]: float(rect["width"]) for rect in rects if rect["class"] != "ground"}
    return texts, bars


def test_bars_are_in_proportion_to_the_ceiling() -> None:
    texts, bars = drawn(cell("shoal", 13_300), cell("ceiling", 10_000), cell("tutorial", 1_000), cell("proxy", 50_000))

    assert bars["shoal"] / bars["ceiling"] == pytest.approx(1.33, rel=0.001)
    assert bars["proxy"] / bars["ceiling"] == pytest.approx(5, rel=0.001)
    assert "1.33x 13\N{NO-BREAK SPACE}300/s" in " ".join(texts)
    assert "0.10x 1\N{NO-BREAK SPACE}000/s" in " ".join(texts)


def test_it_says_on_which_machine_and_of_which_load() -> None:
    texts, _ = drawn(cell("shoal", 2), cell("ceiling", 1))

    assert any("2 cores of Z80 <made by hand>" in text for text in texts)
    assert any("revision abc" in text for text in texts)
    assert "3 features, the same row again and again, 64 connections" in texts


def test_what_was_not_answered_has_no_bar() -> None:
    failed = Cell("penguins", "tutorial", Case("penguins", "hit", 64), [Round(1, Load(10, 1.0, errors={"status": 10}))])

    _, bars = drawn(cell("shoal", 2), cell("ceiling", 1), failed)

    assert "tutorial" not in bars
