"""What a worker has open while it serves: the state that lifespan.py makes and the routes read."""

from __future__ import annotations

from collections.abc import Mapping

from api import logs, metrics, tallies
from api.access.gate import Gate
from api.cache.epochs import Epochs
from api.cache.shared import SharedCache
from api.flights import Served
from api.in_flight import InFlight
from api.jobs.jobs import Jobs
from api.models.repository import Repository
from api.prediction_log import PredictionLog
from api.predictor import Predictor


class Replica:
    def __init__(
        self,
        *,
        repository: Repository,
        served: Mapping[tuple[str, str], Served],
        predictor: Predictor,
        shared: SharedCache,
        epochs: Epochs,
        log: PredictionLog,
        jobs: Jobs,
        in_flight: InFlight,
        gate: Gate,
        default_model: str,
        max_body_bytes: int,
    ) -> None:
        """served: by name and version."""
        self.repository = repository
        self.served = served
        self.predictor = predictor
        self.shared = shared
        self.epochs = epochs
        self.log = log
        self.jobs = jobs
        self.in_flight = in_flight
        self.gate = gate
        self.default_model = default_model
        self.max_body_bytes = max_body_bytes
        self._resolved: dict[tuple[str | None, str | None], Served] = {}

    @property
    def serves_default(self) -> bool:
        """Whether `/predict` has a model to answer with."""
        return any(name == self.default_model for name, _ in self.served)

    def resolve(self, name: str | None, version: str | None) -> Served:
        """The version asked for, or the default one. Raises UnknownModel, UnknownVersion."""
        served = self._resolved.get((name, version))
        if served is None:
            chosen = self.repository.resolve(name or self.default_model, version)
            served = self._resolved[name, version] = self.served[chosen.name, chosen.version]
        return served

    def report(self) -> None:
        """Brings the metrics and the log lines up to date, which lag for the sake of speed."""
        metrics.REQUESTS_IN_FLIGHT.set(len(self.in_flight))
        metrics.CACHE_LOCAL_ROWS.set(self.predictor.local_rows)
        for served in self.served.values():
            served.queued_rows.set(served.batcher.queued_rows)
            served.quarantined.set(served.circuit.seconds_left > 0)
        tallies.flush()
        logs.flush()
