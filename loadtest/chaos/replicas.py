"""What happens to replicas and to nginx: killed, frozen, scaled, rolled, reloaded."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]

from loadtest.chaos.stage import Stage


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
    for replica in stage.stack.replicas:
        replica.stop()
        replica.start()
        stage.go_on()
    stage.over()


def nginx_reloaded(stage: Stage) -> None:
    """Its configuration is read again, first without the last replica, then with it."""
    addresses = [replica.address for replica in stage.stack.replicas]
    for upstreams in (addresses[:-1], addresses, addresses[1:], addresses):
        stage.stack.nginx.reload(upstreams)
        stage.go_on()
    stage.over()
