"""What a worker was running when it died is known afterwards, and a version that goes on killing is left alone."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from api.circuits import Circuit, Circuits, Lane
from api.errors import ModelQuarantined

VERSIONS = [("innocent", "1"), ("killer", "1"), ("killer", "2")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("api.circuits.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def circuits(clock: SimpleNamespace) -> Circuits:
    return Circuits(VERSIONS)


def is_open(circuit: Circuit) -> bool:
    try:
        circuit.check()
    except ModelQuarantined:
        return True
    return False


def die(
    circuits: Circuits, version: tuple[str, str] = ("killer", "1"), lane: Lane = Lane.THREAD, times: int = 1
) -> None:
    for slot in range(times):
        circuits.of(version, slot).begin(lane)
        circuits.worker_died(slot)


def test_the_third_death_in_a_row_opens_the_circuit_of_that_version_alone(circuits: Circuits) -> None:
    die(circuits, times=2)
    assert not any(is_open(circuits.of(version, 7)) for version in VERSIONS)

    die(circuits)
    assert [is_open(circuits.of(version, 7)) for version in VERSIONS] == [False, True, False]


def test_a_run_that_ended_is_nobodys_death(circuits: Circuits) -> None:
    circuit = circuits.of(("killer", "1"), 0)
    for _ in range(10):
        circuit.begin(Lane.LOOP)
        circuit.end(Lane.LOOP)
        circuits.worker_died(0)
    assert not is_open(circuit)


def test_deaths_that_are_far_apart_are_accidents(circuits: Circuits, clock: SimpleNamespace) -> None:
    for _ in range(10):
        die(circuits)
        clock.now += 61
    assert not is_open(circuits.of(("killer", "1"), 0))


def test_it_is_tried_again_and_left_alone_for_twice_as_long_if_it_kills_again(
    circuits: Circuits, clock: SimpleNamespace
) -> None:
    circuit = circuits.of(("killer", "1"), 0)
    die(circuits, times=3)
    with pytest.raises(ModelQuarantined) as error:
        circuit.check()
    assert error.value.retry_after_seconds == 60

    clock.now += 61
    assert not is_open(circuit)
    die(circuits)
    assert circuit.seconds_left == 120

    clock.now += 200  # it behaves
    die(circuits)
    assert not is_open(circuit)


def test_two_deaths_in_its_warm_up_are_enough(circuits: Circuits) -> None:
    circuit = circuits.of(("killer", "2"), 0)
    die(circuits, ("killer", "2"), Lane.WARM_UP)
    assert not circuit.dies_in_warm_up
    die(circuits, ("killer", "2"), Lane.WARM_UP)
    assert circuit.dies_in_warm_up
    assert not is_open(circuit)


def test_another_process_sees_what_a_worker_was_running() -> None:
    circuits = Circuits(VERSIONS)
    for slot in range(3):
        worker = os.fork()
        if not worker:
            circuits.of(("killer", "2"), slot).begin(Lane.LOOP)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(worker, 0)
        circuits.worker_died(slot)
    assert [is_open(circuits.of(version, 9)) for version in VERSIONS] == [False, False, True]
