"""What a worker has open while it serves: the state that lifespan.py makes and the routes read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from api.cache.epochs import Epochs
from api.cache.shared import SharedCache
from api.flights import Served
from api.models.repository import Repository
from api.prediction_log import PredictionLog
from api.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Replica:
    repository: Repository
    served: Mapping[tuple[str, str], Served]
    predictor: Predictor
    shared: SharedCache
    epochs: Epochs
    log: PredictionLog
    default_model: str
    max_body_bytes: int
    deadline_seconds: float

    @property
    def serves_default(self) -> bool:
        """Whether `/predict` has a model to answer with."""
        return any(name == self.default_model for name, _ in self.served)

    def resolve(self, name: str | None, version: str | None) -> Served:
        """The version asked for, or the default one. Raises UnknownModel, UnknownVersion."""
        chosen = self.repository.resolve(name or self.default_model, version)
        return self.served[chosen.name, chosen.version]
