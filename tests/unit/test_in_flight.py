"""Deadlines, as one look at the oldest request keeps them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from api.context import RequestContext
from api.errors import DeadlineExceeded, ServingError
from api.in_flight import InFlight


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("api.in_flight.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def entered(in_flight: InFlight, arrived: float) -> list[ServingError]:
    """What a request is aborted with."""
    errors: list[ServingError] = []
    context = RequestContext("POST", "/predict", [])
    context.arrived = arrived

    def abort(error: ServingError) -> None:
        in_flight.leave(context)
        errors.append(error)

    in_flight.enter(context, abort)
    return errors


def test_what_is_past_its_deadline_is_aborted_and_the_rest_is_not(clock: SimpleNamespace) -> None:
    in_flight = InFlight(deadline_seconds=10, max_requests=10)
    old, young = entered(in_flight, 89.9), entered(in_flight, 90.1)

    in_flight.expire()

    assert [type(error) for error in old] == [DeadlineExceeded]
    assert young == []
    assert len(in_flight) == 1


def test_a_worker_that_stood_still_may_first_give_the_answers_it_has(clock: SimpleNamespace) -> None:
    in_flight = InFlight(deadline_seconds=10, max_requests=10)
    in_flight.expire()
    errors = entered(in_flight, clock.now)

    clock.now += 12
    in_flight.expire()
    clock.now += 0.9
    in_flight.expire()
    assert errors == []

    clock.now += 0.2
    in_flight.expire()
    assert len(errors) == 1
