"""What happens to replicas and to nginx: killed, frozen, scaled, rolled, rerouted, reloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import yaml

from loadtest.chaos import models
from loadtest.chaos.ground import Ground
from loadtest.chaos.reconcile import decode
from loadtest.chaos.scenario import expect
from loadtest.chaos.stage import Stage

_ROUTED = "rerouted"


def workers_killed(stage: Stage) -> None:
    for replica in stage.stack.replicas:
        for worker in psutil.Process(replica.pid).children():
            worker.kill()
        stage.go_on()
    stage.over()


def replica_killed(stage: Stage) -> None:
    """Three times in a row, and each time another one is started in its place."""
    for replica in stage.stack.replicas[:3]:
        replica.kill()
        stage.go_on()
        stage.over()
        replica.start()


def replica_frozen(stage: Stage) -> None:
    """Alive but silent: connections stay open, and nothing comes back."""
    replica = stage.stack.replicas[0]
    replica.pause()
    try:
        stage.wait(10, 10)
    finally:
        stage.over()
        replica.resume()
    stage.go_on()


def scaled(stage: Stage) -> None:
    """Three, five, two, and the whole fleet again."""
    *first, fourth, fifth = stage.stack.replicas
    for replica in (fourth, fifth):
        replica.stop()
    stage.go_on()
    for replica in (fourth, fifth):
        replica.launch()
    for replica in (fourth, fifth):
        replica.wait_until_ready()
    stage.go_on()
    for replica in (first[0], first[1], fifth):
        replica.stop()
    stage.go_on()
    stage.over()
    for replica in (first[0], first[1], fifth):
        replica.launch()
    for replica in (first[0], first[1], fifth):
        replica.wait_until_ready()


def rolled(stage: Stage) -> None:
    """Every replica drains, stops and is started again, one after the other."""
    _roll(stage)
    stage.over()


def _roll(stage: Stage) -> None:
    for replica in stage.stack.replicas:
        replica.stop()
        replica.start()
        stage.go_on()


def routable(ground: Ground) -> Mapping[str, str]:
    """The shipped models where their routing may be changed."""
    folder = ground.folder / _ROUTED
    root = folder / "models" if folder.exists() else models.repository(folder)
    return {"SHOAL_LOG_LEVEL": "WARNING", "SHOAL_MODEL_REPOSITORY": str(root)}


def rerouted(stage: Stage) -> None:
    """Another version of the model becomes the default, and then the first one again, each time replica by replica."""
    for version in ("1", "2"):
        _route(stage.stack.folder.parent / _ROUTED / "models" / "penguins" / "model.yaml", version)
        _roll(stage)
        since = len(stage.load.ledger)
        stage.go_on()
        bodies = stage.load.ledger.bodies[since:]
        seen = {decode(body).version for body in bodies if body}
        expect(seen == {version}, f"{version} is the default version, but those that answered are {seen}")
        stage.made[f"answered by version {version}, once it was the default"] = f"all of {len(bodies)}"
    stage.over()


def _route(path: Path, version: str) -> None:
    manifest = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(manifest | {"default_version": version}))


def nginx_reloaded(stage: Stage) -> None:
    """Its configuration is read again, first without the last replica, then with it."""
    addresses = [replica.address for replica in stage.stack.replicas]
    for upstreams in (addresses[:-1], addresses, addresses[1:], addresses):
        stage.stack.nginx.reload(upstreams)
        stage.go_on()
    stage.over()
