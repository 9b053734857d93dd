from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.bench.access_log import AccessLog


def line(seconds: str, *, method: str = "POST", status: int = 200) -> str:
    """As nginx/nginx.conf writes them."""
    return (
        f'{{"time":1795674316.097,"request_id":"a","id":"a","client":"127.0.0.1","method":"{method}","path":"/predict",'
        f'"protocol":"HTTP/1.1","status":{status},"request_bytes":300,"reply_bytes":400,"seconds":{seconds},'
        f'"upstream":"127.0.0.1:1","upstream_status":"{status}","upstream_seconds":"9.000"}}\n'
    )


def test_the_mean_is_of_the_predictions_that_were_answered_since_the_last_look(tmp_path: Path) -> None:
    file = tmp_path / "nginx.log"
    file.write_text("nginx: a warning\n" + line("5.000"))
    log = AccessLog(file)
    log.mean_seconds()

    with file.open("a") as opened:
        opened.write(line("0.002") + line("0.004") + line("7.000", method="GET") + line("8.000", status=499))

    assert log.mean_seconds() == pytest.approx(0.003)
    assert log.mean_seconds() == 0


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "nginx.log"
    whole = line("0.002") + line("0.004")
    file.write_text(whole[:-40])
    log = AccessLog(file)

    first = log.mean_seconds()
    with file.open("a") as opened:
        opened.write(whole[-40:])

    assert (first, log.mean_seconds()) == (0.002, 0.004)
