"""What happens to disks: the spool's and that of Postgres. Small ones are mounted over them, which takes root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.chaos.ground import wait_until_spool_is_empty
from loadtest.chaos.scenario import NotHere, Outcome
from loadtest.chaos.stage import Stage

_UNAVAILABLE = 503


def killed_while_spooling(stage: Stage) -> None:
    """All replicas at once, as when the power goes; and what was being written to the spool is half there."""
    stage.stack.postgres.stop()
    stage.go_on()
    for replica in stage.stack.replicas:
        replica.kill()
    journal = stage.stack.folder / "spool" / "spool.sqlite3-wal"
    with journal.open("ab") as file:
        file.write(os.urandom(2500))  # a frame is a page of 4096 bytes and a head of 24
    for replica in stage.stack.replicas:
        replica.launch()
    for replica in stage.stack.replicas:
        replica.wait_until_ready()
    stage.go_on()
    stage.over()
    stage.stack.postgres.start()


def spool_full(stage: Stage) -> None:
    """Neither Postgres nor the spool takes rows: there is no answer then that could be kept."""
    with _small_spool(stage, "384k") as spool:
        stage.stack.postgres.stop()
        stage.go_on(0.2)
        stage.over()
        _run("mount", "-o", "remount,size=256m", str(spool))
        stage.go_on()
        stage.stack.postgres.start()


def spool_read_only(stage: Stage) -> None:
    with _small_spool(stage, "64m") as spool:
        stage.stack.postgres.stop()
        stage.go_on(0.05)
        # SQLite has the file open to write, which forbids to remount; a bind mount on top does not mind.
        _run("mount", "--bind", str(spool), str(spool))
        _run("mount", "-o", "remount,bind,ro", str(spool))
        stage.go_on(0.3)
        stage.over()
        _run("umount", "--lazy", str(spool))
        stage.stack.postgres.start()


def refusals_were_honest(stage: Stage, outcome: Outcome) -> None:
    ledger = stage.load.ledger
    refused = list(ledger.numbers(_UNAVAILABLE))
    without = sum(ledger.retry_after[number] < 1 for number in refused)
    outcome.must(bool(refused), "nothing was refused, so nothing was broken")
    outcome.must(not without, f"{without} of {len(refused)} 503 had no Retry-After")


def postgres_full(stage: Stage) -> None:
    """Its data moves to a disk with little room, which something else then fills."""
    postgres = stage.stack.postgres
    data = postgres.folder / "postgres"
    aside = data.with_name("aside")
    postgres.stop()
    shutil.copytree(data, aside, symlinks=True)
    room = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file()) // 2**20 + 96
    with _mounted(data, f"size={room}m,mode=700"):
        shutil.copytree(aside, data, symlinks=True, dirs_exist_ok=True)
        postgres.start()
        stage.go_on()
        fill = data / "fill"
        with fill.open("wb") as file:
            try:
                while True:
                    file.write(bytes(2**16))
            except OSError:
                pass
        stage.wait(20, 5)
        stage.over()
        fill.unlink()
        if postgres.process.poll() is not None:  # it gives up where it cannot even write its journal
            postgres.wait(1)
            postgres.start()
        stage.go_on()
        wait_until_spool_is_empty(stage.stack)
        postgres.stop()
        shutil.rmtree(aside)
        shutil.copytree(data, aside, symlinks=True)
    shutil.copytree(aside, data, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(aside)
    postgres.start()


@contextmanager
def _small_spool(stage: Stage, size: str) -> Iterator[Path]:
    """The spool on a disk of that size; 384k are a few hundred rows. What is in it at the end is replayed first."""
    spool = stage.stack.folder / "spool"
    with _mounted(spool, f"size={size}"):
        yield spool
        wait_until_spool_is_empty(stage.stack)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    if os.geteuid() != 0:
        raise NotHere("mounting a small file system takes root")
    try:
        _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    except subprocess.CalledProcessError as error:
        raise NotHere(f"a small file system cannot be mounted: {error.stderr.decode().strip()}") from error
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))  # lazy: replicas may have files open in it


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  our own commands
