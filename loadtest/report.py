"""Tables and a chart: as text for the terminal, as HTML for the head of Locust's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from loadtest.shapes import Step, knee
from loadtest.tally import Latencies, Tier, hit_rate
from loadtest.verdict import Judgement, Measured

# Where Locust's page begins; what stands before it is shown above it.
_ROOT = '<div id="root"></div>'
_COLOURS = {"local": "#2e7d32", "redis": "#81c784", "coalesced": "#fbc02d", "miss": "#e64a19", "mixed": "#90a4ae"}
_STYLE = (
    "<style>#shoal{font-family:Roboto,Helvetica,Arial,sans-serif;max-width:1152px;margin:32px auto;padding:0 24px}"
    "#shoal table{border-collapse:collapse;margin:8px 0 24px}#shoal td,#shoal th{padding:4px 16px 4px 0;"
    "text-align:right;border-bottom:1px solid #8884}#shoal td:first-child,#shoal th:first-child{text-align:left}"
    "#shoal .missed{color:#d32f2f;font-weight:700}#shoal svg{display:block;width:100%;height:220px}"
    "#shoal i{display:inline-block;width:12px;height:12px;margin:0 4px 0 16px}</style>"
)


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """The first column to the left, the others to the right, as wide as they must be."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        shown = [
            "  ".join(f"{cell:{'>' if column else '<'}{widths[column]}}" for column, cell in enumerate(line))
            for line in lines
        ]
        return "\n".join([self.title, shown[0], "-" * len(shown[0]), *shown[1:]])

    def html(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            kind = ' class="missed"' if cells[-1] == "MISSED" else ""
            return f"<tr{kind}>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

        body = "".join(row(cells, "td") for cells in self.rows)
        return f"<h2>{escape(self.title)}</h2><table>{row(self.head, 'th')}{body}</table>"


def tables(measured: Measured, judgements: Sequence[Judgement], steps: Sequence[Step], title: str) -> list[Table]:
    """What there is to say, the verdict last. title: of the run."""
    return [
        *([_cache_table(measured.tiers)] if measured.tiers else []),
        *([_step_table(steps)] if steps else []),
        Table(
            f"Verdict: {title}",
            ("objective", "measured", "verdict"),
            [(each.objective, each.measured, "kept" if each.kept else "MISSED") for each in judgements],
        ),
    ]


def with_section(page: str, shown: Sequence[Table], tiers: Sequence[Tier]) -> str:
    """Locust's report with our tables, the verdict first, and the chart above it.

    Raises:
        ValueError: it is not a report of the Locust that we know.
    """
    if _ROOT not in page:
        raise ValueError("expected a report of Locust 2.47, got a page without its root element")
    parts = [shown[-1].html(), *(table.html() for table in shown[:-1]), _chart(tiers)]
    return page.replace(_ROOT, f'{_STYLE}<section id="shoal">{"".join(parts)}</section>{_ROOT}', 1)


def _percentiles(latencies: Latencies) -> list[str]:
    return [f"{latencies.percentile(share):.3f} s" for share in (0.5, 0.95, 0.99)]


def _cache_table(tiers: list[Tier]) -> Table:
    total = sum(tier.answers for tier in tiers)
    hits = hit_rate(tiers)
    return Table(
        "Cache" if hits is None else f"Cache: hit rate {hits:.2%} (answers for which the model did not run again)",
        ("tier", "answers", "share", "p50", "p95", "p99"),
        [
            (tier.name, f"{tier.answers}", f"{tier.answers / total:.2%}", *_percentiles(tier.latencies))
            for tier in tiers
        ],
    )


def _step_table(steps: Sequence[Step]) -> Table:
    best = knee(list(steps))
    return Table(
        "Ramp: the knee is where throughput / latency is greatest",
        ("users", "requests/s", "p50", "p95", "p99", ""),
        [
            (
                f"{step.users}",
                f"{step.requests_per_second:.0f}",
                *_percentiles(step.latencies),
                "<- knee" if step is best else "",
            )
            for step in steps
        ],
    )


def _chart(tiers: Sequence[Tier]) -> str:
    """Answers in each second as bars, the tiers on top of each other."""
    seconds = sorted({second for tier in tiers for second in tier.per_second})
    if not seconds:
        return ""
    begin, width = seconds[0], seconds[-1] - seconds[0] + 1
    height = max(sum(tier.per_second[second] for tier in tiers) for second in seconds)
    bars = []
    for second in seconds:
        top = height
        for tier in tiers:
            if answers := tier.per_second[second]:
                top -= answers
                label = f"{second - begin} s: {answers} {tier.name}"
                bars.append(
                    f'<rect x="{second - begin}" y="{top}" width=".9" height="{answers}" fill="{_COLOURS[tier.name]}">'
                    f"<title>{label}</title></rect>"
                )
    legend = "".join(f'<i style="background:{_COLOURS[tier.name]}"></i>{tier.name}' for tier in tiers)
    return (
        f"<h2>Answers per second by cache tier (at most {height})</h2>{legend}"
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{"".join(bars)}</svg>'
    )
