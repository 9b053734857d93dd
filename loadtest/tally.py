"""Latencies and cache tiers, out of Locust's statistics.

Locust counts requests by name. The locustfile puts X-Cache into the name, `/predict [redis]`, so that Locust itself
has the count and the percentiles of each tier, and adds them up over load processes and machines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from loadtest.answers import TIERS

_TIERED = re.compile(rf"(?P<path>.+) \[(?P<tier>{'|'.join(TIERS)}|mixed)\]")


class Latencies(Counter[int]):
    """How often a request took so many milliseconds (Locust rounds them to two digits above 100)."""

    def percentile(self, share: float) -> float:
        """Seconds within which that share of the requests was answered; 0 if there are none."""
        left = share * self.total()
        for milliseconds in sorted(self):
            left -= self[milliseconds]
            if left <= 1e-9:
                return milliseconds / 1000
        return max(self, default=0) / 1000


def difference(later: Latencies, earlier: Latencies) -> Latencies:
    return Latencies(later - earlier)


class Entry(Protocol):
    """Of Locust's StatsEntry, what is needed here."""

    name: str
    num_requests: int
    response_times: dict[int, int]
    num_reqs_per_sec: dict[int, int]


Entries = Mapping[tuple[str, str], Entry]


@dataclass(slots=True)
class Tier:
    """Requests whose X-Cache was the same. A batch counts once."""

    name: str
    answers: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    per_second: Counter[int] = field(default_factory=Counter)


def tiered(name: str, tier: str) -> str:
    return f"{name} [{tier}]"


def tiers(entries: Entries) -> list[Tier]:
    """The tiers that answered, nearest first, over all paths."""
    found = {name: Tier(name) for name in (*TIERS, "mixed")}
    for (name, _), entry in entries.items():
        if match := _TIERED.fullmatch(name):
            tier = found[match["tier"]]
            tier.answers += entry.num_requests
            tier.latencies.update(entry.response_times)
            tier.per_second.update(entry.num_reqs_per_sec)
    return [tier for tier in found.values() if tier.answers]


def hit_rate(found: list[Tier]) -> float | None:
    """Share of the answers for which the model did not run again; of batches only if all their rows agree.

    None: nothing was answered.
    """
    answers = {tier.name: tier.answers for tier in found if tier.name != "mixed"}
    total = sum(answers.values())
    return 1 - answers.get("miss", 0) / total if total else None


def label_shares(entries: Entries) -> None:
    """Writes each tier's share of its path into the names that Locust shows: `/predict [redis] 31.4 %`.

    Only what is shown: Locust goes on counting under the key of the entry.
    """
    totals: Counter[tuple[str, str]] = Counter()
    matches = {key: match for key in entries if (match := _TIERED.fullmatch(key[0]))}
    for (name, method), match in matches.items():
        totals[match["path"], method] += entries[name, method].num_requests
    for (name, method), match in matches.items():
        entry = entries[name, method]
        if total := totals[match["path"], method]:
            entry.name = f"{name} {entry.num_requests / total:.1%}"
