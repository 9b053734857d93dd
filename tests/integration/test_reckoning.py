"""`make chaos` finds what is wrong with a real log: rows are written as the log writes them, then spoilt by hand."""

from __future__ import annotations

import msgspec
import psycopg
import pytest

from loadtest.chaos.ledger import Ledger
from loadtest.chaos.questions import Questions
from loadtest.chaos.reconcile import Answer, logged, reconcile
from tests.conftest import Database
from tests.prediction_rows import pack, prediction_log, record

QUESTIONS = Questions("run", 3)
REQUESTS = 20


@pytest.fixture
async def answered(postgres: Database, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Requests whose rows are in the log, as the log itself wrote them."""
    ledger = Ledger()
    rows = []
    for number in range(REQUESTS):
        features = msgspec.json.encode(QUESTIONS.row(number))
        row = record(request_id=QUESTIONS.request_id(number), input_data=features)
        rows.append(pack(row))
        answer = Answer(row.id, 1, row.confidence, row.model, row.version, False, row.label)
        ledger.end(ledger.begin(0, 0), 1, 200, msgspec.json.encode(answer))
    async with prediction_log(postgres.dsn, tmp_path_factory.mktemp("spool")) as log:
        await log.append(rows)
    return ledger


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        ("SELECT", {}),
        ("DELETE FROM predictions WHERE request_id = 'run.7'", {"lost": 1}),
        (
            "INSERT INTO predictions SELECT id, timestamp + interval '1 ms', model, version, input_data, prediction,"
            " label, confidence, cache, request_id FROM predictions WHERE request_id IN ('run.7', 'run.8')",
            {"duplicated": 2},
        ),
        ("UPDATE predictions SET prediction = '2' WHERE request_id = 'run.7'", {"altered": 1}),
        ("UPDATE predictions SET confidence = confidence - 1e-9 WHERE request_id = 'run.7'", {"altered": 1}),
        ("UPDATE predictions SET input_data = '[1, 2, 3]' WHERE request_id = 'run.7'", {"altered": 1}),
        ("UPDATE predictions SET request_id = 'nobody' WHERE request_id = 'run.7'", {"lost": 1, "unasked": 1}),
    ],
    ids=["nothing", "lost", "twice", "prediction", "confidence", "input", "made up"],
)
async def test_whatever_is_wrong_is_found(
    answered: Ledger, postgres: Database, spoil: str, found: dict[str, int]
) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(spoil.encode())
    reckoning = reconcile(answered, QUESTIONS, logged(postgres.dsn))
    names = ("lost", "duplicated", "altered", "unasked")
    assert {name: count for name in names if (count := getattr(reckoning, name))} == found
