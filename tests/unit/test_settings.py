"""Settings refuse nonsense at start, and never print a secret."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from api.settings import Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deadline_seconds": 2}, "log_commit_timeout_seconds must not be above deadline_seconds"),
        ({"drain_seconds": 5}, "deadline_seconds must not be above drain_seconds"),
        ({"graceful_timeout_seconds": 10}, "drain_seconds must not be above graceful_timeout_seconds"),
        ({"max_queued_rows": 100}, "max_rows_per_request must not be above max_queued_rows"),
        ({"workers": 0}, "workers"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_nonsense_is_refused_at_start(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**settings)  # type: ignore[arg-type]

    assert message in str(refused.value)


def test_a_refused_value_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_WORKERS", "hunter2")

    with pytest.raises(ValidationError) as refused:
        Settings()

    assert "hunter2" not in str(refused.value)


def test_a_password_is_not_printed() -> None:
    assert "hunter2" not in repr(Settings(redis_password=SecretStr("hunter2")))


def test_an_empty_name_of_the_keys_file_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_KEYS_FILE", "")

    assert Settings().keys_file is None
