"""The prediction log: an answer is given once its row is durable.

log.py puts it together. writer.py gathers rows and commits them over link.py (which knows whether Postgres is there)
and wire.py (COPY), or else into spool.py (SQLite, spool_file.py), from where replay.py moves them to Postgres.
record.py packs rows, statements.py is the SQL of writing them, queries.py reads them, migrations.py keeps the schema.
"""

from api.prediction_log.log import LogStatus, PredictionLog
from api.prediction_log.queries import Queries
from api.prediction_log.record import pack_answer, pack_model, pack_row, pack_text, uuid7

__all__ = ["LogStatus", "PredictionLog", "Queries", "pack_answer", "pack_model", "pack_row", "pack_text", "uuid7"]
