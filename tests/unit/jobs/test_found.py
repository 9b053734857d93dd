"""The client of jobs, asked without --url."""

from __future__ import annotations

import socket

import pytest

from api import job_commands


def test_the_first_where_somebody_listens_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as here, socket.create_server(("127.0.0.1", 0)) as gone:
        urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in (gone, here)]
        gone.close()
        monkeypatch.setattr(job_commands, "_URLS", urls)

        assert job_commands._found() == urls[1]


def test_where_nobody_listens_it_says_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    monkeypatch.setattr(job_commands, "_URLS", [url])

    with pytest.raises(ValueError, match=f"nobody listens at {url}"):
        job_commands._found()
