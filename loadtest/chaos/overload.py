"""More than it can do: three times as many requests as it answers at most, for a minute, whatever becomes of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from loadtest.bench.usage import pss_bytes
from loadtest.chaos import models
from loadtest.chaos.ground import Ground
from loadtest.chaos.ledger import Ledger, share
from loadtest.chaos.load import Load
from loadtest.chaos.oracle import Oracle
from loadtest.chaos.questions import Questions
from loadtest.chaos.reconcile import logged, reconcile, spooled
from loadtest.chaos.scenario import Effort, Outcome, must_not_fail, outcome
from tests.stack import Stack

OVERLOADED = 429
TIMES = 3
GOODPUT = 0.9  # of the peak
REFUSAL_SECONDS = 0.1
# There nginx shares one core with all whom it passes requests to, and has too little of it to refuse any faster.
CHEAP_REFUSAL_SECONDS = 1.0
MAX_GROWTH_BYTES = 64 * 2**20  # of all replicas together, between the first quarter of the overload and its end
RECOVERY_SECONDS = 2.0
PUNCTUAL_SECONDS = 0.25  # after its time; a request that the load sends later than that is one that it owes
_SETTLE_SECONDS = 1.0
# A peak of two seconds is a peak of luck, too: of goodput, and of the time in which half of it is answered again.
# And of few refusals one in a hundred is soon late: others had the cores for a moment.
_QUICK_SLACK, _QUICK_SLACK_SECONDS, _QUICK_REFUSAL_TIMES = 0.2, 2.0, 5
_CONNECTIONS = 2500  # about as many as there are requests in flight at most
_MOST_RETRY_AFTER = 10  # the deadline: whoever waits longer would have had his answer


class Bar(NamedTuple):
    """What is promised of an overload where models differ."""

    goodput: float
    """Of the peak, at least."""
    refusal_seconds: float
    """Of 99 in a hundred, at most."""
    recovery_seconds: float = RECOVERY_SECONDS


def dear(ground: Ground, effort: Effort) -> Outcome:
    """A model whose queue is the limit."""
    return _overload(ground, effort, model="dear", first_rate=100, bar=Bar(GOODPUT, REFUSAL_SECONDS))


def cheap(ground: Ground, effort: Effort) -> Outcome:
    """The shipped model: decoding, logging and nginx are the limit, on cores that the load is on, too."""
    return _overload(ground, effort, model="penguins", first_rate=1500, bar=Bar(GOODPUT, CHEAP_REFUSAL_SECONDS))


def _overload(ground: Ground, effort: Effort, *, model: str, first_rate: float, bar: Bar) -> Outcome:
    ground.clear()  # nothing else takes of the cores meanwhile
    folder = ground.empty_folder()
    root = models.repository(folder, dear=models.Dear())
    stack = Stack(folder, SHOAL_MODEL_REPOSITORY=str(root), SHOAL_LOG_LEVEL="WARNING", NGINX_RATE_LIMIT="1000000r/s")
    try:
        its, loads = cores()
        with _on(its):
            stack.start()
        path = f"/models/{model}/predict"
        peak = find_peak(stack, path, first_rate, loads, effort)
        effort.say(f"{model}: at most {peak:.0f} answers a second")
        stack.postgres.execute("TRUNCATE predictions", "predictions")
        load, begun, ended, memory = _three_times(stack, Questions("overload", 0, path=path), peak, loads, effort)
        rows, waiting = logged(stack.postgres.dsn), spooled(folder / "spool")
        reckoning = reconcile(load.ledger, load.questions, rows, waiting, Oracle(root).check)
        made = outcome(load.ledger, reckoning, recovered(load.ledger, ended))
        must_not_fail(made, but=frozenset({OVERLOADED}))
        of_overload = [(at, size) for at, size in memory if begun <= at < ended]
        if effort.quick:
            bar = Bar(
                bar.goodput - _QUICK_SLACK,
                bar.refusal_seconds * _QUICK_REFUSAL_TIMES,
                bar.recovery_seconds + _QUICK_SLACK_SECONDS,
            )
        judge(made, load.ledger, peak, begun, ended, of_overload, bar)
        made.series = {
            "answers/s": per_second(load.ledger, load.began, 200),
            "refused/s": per_second(load.ledger, load.began, OVERLOADED),
            "memory of the replicas, MB": [(at - load.began, size / 1e6) for at, size in memory],
        }
        return made
    finally:
        stack.close()


def cores() -> tuple[set[int], set[int]]:
    """Those of the stack, and one of the load's own: else more requests would leave less to answer them with."""
    *its, last = sorted(os.sched_getaffinity(0))
    return (set(its), {last}) if its else ({last}, {last})


@contextmanager
def _on(chosen: set[int]) -> Iterator[None]:
    """What is started inside keeps to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def find_peak(stack: Stack, path: str, rate: float, loads: set[int], effort: Effort) -> float:
    """Answers a second at rates that grow until more requests bring no more answers: the most that were seen."""
    seconds = 2.5 if effort.quick else 6.0
    goodputs: list[float] = []
    seed = 0
    while True:
        seed += 1
        with Load(stack.nginx.port, Questions(f"peak-{seed}", seed, path=path), rate, cores=loads) as load:
            time.sleep(_SETTLE_SECONDS + seconds)
            until = time.monotonic()
        goodputs.append(load.ledger.answers_between(until - seconds, until) / seconds)
        effort.say(f"offered {rate:.0f}/s, answered {goodputs[-1]:.0f}/s")
        if goodputs[-1] < 0.9 * rate:
            return max(goodputs)
        rate *= 1.6


Memory = list[tuple[float, float]]
"""When, on the monotonic clock, and how many bytes."""


def _three_times(
    stack: Stack, questions: Questions, peak: float, loads: set[int], effort: Effort
) -> tuple[Load, float, float, Memory]:
    """The load; when the overload began and ended; what memory the replicas had all the while."""
    calm, overload, after = (2.0, 16.0, 5.0) if effort.quick else (5.0, 60.0, 20.0)
    memory: Memory = []

    def watch(seconds: float) -> None:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            memory.append((now, float(sum(pss_bytes(replica.pid) for replica in stack.replicas))))
            time.sleep(min(0.5, max(end - time.monotonic(), 0)))

    with Load(stack.nginx.port, questions, peak / 2, cores=loads, connections=_CONNECTIONS) as load:
        watch(calm)
        load.rate = TIMES * peak
        begun = time.monotonic()
        watch(overload)
        load.rate = peak / 2
        ended = time.monotonic()
        while load.behind_seconds > PUNCTUAL_SECONDS and time.monotonic() < ended + 3 * overload:
            watch(_SETTLE_SECONDS)  # what the load owes is overload, too
        watch(after)
    return load, begun, ended, memory


def judge(made: Outcome, ledger: Ledger, peak: float, begun: float, ended: float, memory: Memory, bar: Bar) -> None:
    """Holds an overload from `begun` to `ended` against what is promised of one. memory: of that time."""
    goodput = ledger.answers_between(begun, ended) / (ended - begun)
    lags = sorted(sent - due for sent, due in zip(ledger.sent, ledger.due, strict=True) if begun <= due < ended)
    offered = sum(begun <= sent < ended for sent in ledger.sent) / (ended - begun)
    answers = ledger.latencies(200, since=begun, until=ended)
    # From when they were sent: where the load itself cannot keep up, its figures say nothing about who answers.
    refusals = sorted(
        ledger.done[number] - ledger.sent[number]
        for number in ledger.numbers(OVERLOADED)
        if begun <= ledger.due[number] < ended
    )
    retry_after = [ledger.retry_after[number] for number in ledger.numbers(OVERLOADED)]
    useful = sum(1 <= each <= _MOST_RETRY_AFTER for each in retry_after)
    growth = _growth(memory)
    refused = share(refusals, 0.99)
    made.must(goodput >= bar.goodput * peak, f"goodput {goodput / peak:.2f} of the peak, not {bar.goodput}")
    made.must(bool(refusals), f"nothing was refused; the load offered {offered / peak:.1f} times the peak")
    made.must(
        refused <= bar.refusal_seconds, f"429 took {refused:.3f} s (99th of a hundred), not {bar.refusal_seconds}"
    )
    made.must(
        useful == len(retry_after),
        f"{len(retry_after) - useful} of {len(retry_after)} 429 without a Retry-After of use",
    )
    made.must(growth <= MAX_GROWTH_BYTES, f"memory grew by {growth / 1e6:.0f} MB")
    made.must(
        any(due > ended and sent - due <= PUNCTUAL_SECONDS for due, sent in zip(ledger.due, ledger.sent, strict=True)),
        "no request was sent on time after the overload, so nobody saw the recovery",
    )
    made.must(
        made.recovered_seconds <= bar.recovery_seconds,
        f"it took {made.recovered_seconds:.1f} s to recover, not {bar.recovery_seconds:g}",
    )
    made.numbers = {
        "peak": peak,
        "offered": offered,
        "goodput": goodput,
        "goodput_of_peak": goodput / peak,
        "refusal_seconds": [share(refusals, part) for part in (0.5, 0.99, 1)],
        "answer_seconds": [share(answers, part) for part in (0.5, 0.99, 1)],
        "load_lag_seconds": [share(lags, part) for part in (0.5, 0.99, 1)],
        "memory_growth_bytes": growth,
    }
    made.figures = {
        "peak, offered": f"{peak:.0f}/s, {offered:.0f}/s ({offered / peak:.1f} times)",
        "goodput": f"{goodput:.0f}/s, {goodput / peak:.2f} of the peak",
        "429, p50 p99 max": _three(refusals),
        "answers, p50 p99 max": _three(answers),
        "Retry-After": f"{min(retry_after, default=0)} to {max(retry_after, default=0)} s",
        "memory": f"{growth / 1e6:+.0f} MB",
        "lag of the load itself, p50 p99 max": _three(lags),
    }


def recovered(ledger: Ledger, ended: float) -> float:
    """Seconds after the overload ended when the last request was sent that was refused, or not answered fast.

    Where the load could not keep up, the overload lasts until it has sent what it owes.
    """
    slow = 0.5
    owed = (sent for due, sent in zip(ledger.due, ledger.sent, strict=True) if sent - due > PUNCTUAL_SECONDS)
    ended = max(ended, max(owed, default=ended))
    late = [
        sent
        for status, sent, done in zip(ledger.status, ledger.sent, ledger.done, strict=True)
        if sent > ended and (status != 200 or done - sent > slow)
    ]
    return max(late, default=ended) - ended


def per_second(ledger: Ledger, began: float, status: int) -> list[tuple[float, float]]:
    """How many ended so in each second."""
    counts: dict[int, int] = {}
    for each, done in zip(ledger.status, ledger.done, strict=True):
        if each == status:
            counts[int(done - began)] = counts.get(int(done - began), 0) + 1
    return [(float(second), float(counts.get(second, 0))) for second in range(max(counts, default=-1) + 1)]


def _growth(memory: list[tuple[float, float]]) -> float:
    """From the first quarter, in which queues fill, to the last. Medians, as a look may fall into a bad moment."""
    quarter = max(1, len(memory) // 4)
    sizes = [size for _, size in memory]
    return statistics.median(sizes[-quarter:]) - statistics.median(sizes[quarter : 2 * quarter] or sizes)


def _three(ordered: list[float]) -> str:
    return ", ".join(f"{share(ordered, part) * 1e3:.0f}" for part in (0.5, 0.99, 1)) + " ms"
