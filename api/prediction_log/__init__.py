"""The prediction log: record.py packs rows, log.py gathers and commits them, to postgres.py or, while that is away, to
spool.py; migrations.py keeps the table, queries.py reads it back."""

from api.prediction_log.log import LogStatus, PredictionLog
from api.prediction_log.queries import Queries
from api.prediction_log.record import Record, pack, uuid7

__all__ = ["LogStatus", "PredictionLog", "Queries", "Record", "pack", "uuid7"]
