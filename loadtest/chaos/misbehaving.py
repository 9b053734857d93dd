"""Models that raise, give NaN, take all memory, crash or hang, beside one that is well and goes on being asked."""

from __future__ import annotations

import http.client
import json
import resource
import time
from collections import Counter
from collections.abc import Mapping

import psutil  # type: ignore[import-untyped]

from loadtest.chaos import models
from loadtest.chaos.ground import Ground
from loadtest.chaos.reconcile import STRANGERS
from loadtest.chaos.scenario import Outcome, expect
from loadtest.chaos.stage import Stage

_HARMLESS, _HARMFUL = [39.1, 18.7, 181.0], [-39.1, 18.7, 181.0]
_MOST_BYTES = 14 * 2**30  # of addresses; what 10 GB more is beyond, and what torch takes by itself is not
_TOUCHED = 0.005
_QUARANTINED = "model-quarantined"


def repository(ground: Ground) -> Mapping[str, str]:
    root = ground.folder / "misbehaving" / "models"
    if not root.exists():
        models.repository(
            ground.folder / "misbehaving",
            raises=models.Raises(),
            nan=models.GivesNaN(),
            grows=models.Grows(),
            memory=models.Allocates(),
            crashes=models.Crashes(),
            hangs=models.Hangs(),
            hangs_dearly=models.HangsDearly(),
        )
    return {"SHOAL_LOG_LEVEL": "WARNING", "SHOAL_MODEL_REPOSITORY": str(root)}


def models_fail(stage: Stage) -> None:
    """Those that can be caught: each such request fails clearly, and costs nobody else anything."""
    for replica in stage.stack.replicas:
        for process in [psutil.Process(replica.pid), *psutil.Process(replica.pid).children()]:
            process.rlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    for name in ("raises", "nan", "grows", "memory"):
        seen = Counter(ask(stage, name, _HARMFUL) for _ in range(10))
        stage.made[f"{name}, harmful rows"] = in_words(seen)
        expect(seen == {(500, "model-failed"): 10}, f"{name}: {in_words(seen)}")
        expect(ask(stage, name, _HARMLESS) == (200, ""), f"{name} fails on a harmless row")
        stage.go_on()
    stage.over()


def model_crashes(stage: Stage) -> None:
    """Until it is left alone: a worker dies for each row, and is replaced."""
    _until_quarantined(stage, "crashes", seconds=60)
    stage.over()


def model_hangs(stage: Stage) -> None:
    _until_quarantined(stage, "hangs", seconds=120)
    stage.over()


def dear_model_hangs(stage: Stage) -> None:
    _until_quarantined(stage, "hangs_dearly", seconds=240)
    stage.over()


def _until_quarantined(stage: Stage, name: str, seconds: float) -> None:
    seen: Counter[tuple[int, str]] = Counter()
    begun = time.monotonic()
    while seen[503, _QUARANTINED] < 5:
        expect(time.monotonic() - begun < seconds, f"{name} is not quarantined after {seconds:.0f} s: {in_words(seen)}")
        answer = ask(stage, name, _HARMFUL)
        seen[answer] += 1
        expect(answer[0] in (500, 502, 503, 504), f"{name}: {answer}")
    stage.made[f"{name}, harmful rows"] = in_words(seen)
    stage.made[f"{name}, quarantined after"] = f"{time.monotonic() - begun:.1f} s"
    stage.made["replicas that say so"] = f"{sum(_is_quarantined(each.port, name) for each in stage.stack.replicas)}"
    stage.go_on()


def said_so(stage: Stage, outcome: Outcome) -> None:
    """And hardly anybody else was touched: who is in a worker with such a row, and with it again in the next one."""
    failed = outcome.reckoning.failed
    outcome.must(
        failed <= _TOUCHED * outcome.reckoning.requests, f"{failed} others failed, more than {_TOUCHED:.1%} of them"
    )
    outcome.must(int(stage.made["replicas that say so"]) > 0, "GET /models says nothing of the quarantine")


def ask(stage: Stage, name: str, row: list[float]) -> tuple[int, str]:
    """The status, and which problem it is if it is one."""
    connection = http.client.HTTPConnection("127.0.0.1", stage.stack.nginx.port, timeout=30)
    headers = {"Content-Type": "application/json", "X-Request-Id": f"{STRANGERS}{name}"}
    try:
        connection.request("POST", f"/models/{name}/predict", json.dumps({"features": row}), headers)
        reply = connection.getresponse()
        body = json.loads(reply.read())
    finally:
        connection.close()
    return reply.status, str(body.get("type", "")).removeprefix("urn:shoal:problem:")


def _is_quarantined(port: int, name: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", f"/models/{name}")
        return bool(json.loads(connection.getresponse().read())["versions"][0]["quarantined"])
    finally:
        connection.close()


def in_words(seen: Counter[tuple[int, str]]) -> str:
    return ", ".join(f"{count} x {status} {slug}".strip() for (status, slug), count in sorted(seen.items()))
