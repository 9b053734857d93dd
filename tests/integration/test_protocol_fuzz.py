"""Connections to a worker on which anything is sent: answered or closed, and the next good request works."""

from __future__ import annotations

import asyncio
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import metrics, tallies
from tests.integration.test_protocol import (
    Worker,
    gated_models,  # noqa: F401  a fixture
    in_flight,
    request,
    worker,  # noqa: F401  a fixture
)

LAST = b"GET /health/live HTTP/1.1\r\nHost: shoal\r\nConnection: close\r\nX-Request-Id: last\r\n\r\n"
GOOD = (
    request(),
    request(path="/predict?x=1"),
    request(b'{"instances":[[1,2,3],[4,5,6]]}', path="/predict/batch"),
    request(path="/models/penguins/versions/2/predict", X_Request_Id="mine"),
    request(version="1.0", Connection="keep-alive"),
    request(Expect="100-continue"),
    request().partition(b"Content-Length")[0]
    + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"fea\r\n1a\r\ntures":[39.1,18.7,181.0]}\r\n0\r\n\r\n',
    b"GET /models HTTP/1.1\r\nHost: shoal\r\n\r\n",
)  # fmt: skip
LINES = (
    b"Content-Length: 0", b"Content-Length: 9999999999999999999999", b"Content-Length: -1", b"Content-Length: 1e3",
    b"Content-Length: 31, 31", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding:\x0bchunked", b"Connection: close", b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c", b"Expect: 100-continue", b"Expect: nonsense",
    b"X: " + b"a" * 70_000, b"Content-Type: text/plain", b" folded: line", b"no header", b": no name", b"", b"0\r\n",
    b"ffffffffffffffff", b"POST /predict HTTP/1.1", b"POST /\xff HTTP/1.1", b"CONNECT a:1 HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
)  # fmt: skip
PIECES = (
    b"\r\n", b"\r", b"\n", b" ", b"\t", b"\x00", b"\xff", b":", b"HTTP/0.9", b"HTTP/1.1", b"%00", b"%0a", b"//", b"?",
    b"#", b"\xc3\xa9", b"\x16\x03\x01\x02\x00",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """With lines put in or in place of others, or with bytes."""
    if draw(st.booleans()):
        lines = good.split(b"\r\n")
        for line in draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=2)):
            at = draw(st.integers(0, len(lines) - 1))
            lines[at : at + draw(st.integers(0, 1))] = [line]
        return b"\r\n".join(lines)
    sent = bytearray(good)
    for piece in draw(st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), min_size=1, max_size=3)):
        at = draw(st.integers(0, len(sent)))
        sent[at : at + draw(st.integers(0, 4))] = piece
    return bytes(sent)


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Requests, good and damaged, in the pieces that they are sent in."""
    good = st.sampled_from(GOOD)
    sent = b"".join(draw(st.lists(good | good.flatmap(damaged), min_size=1, max_size=3)))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=4)))
    return [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


def server_errors() -> float:
    """As the worker counts them: an answer may be lost to the client, where the worker closes before all is read."""
    tallies.flush()
    return sum(
        sample.value
        for metric in metrics.REQUESTS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["status"].startswith("5")
    )


async def conversation(worker: Worker, pieces: list[bytes], *, patience_seconds: float) -> list[int]:  # noqa: F811
    """The status of each answer. Returns once the worker has closed, which we do when it says nothing for too long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
    try:
        for piece in [*pieces, LAST]:
            writer.write(piece)
            await asyncio.sleep(0)
        answer = bytearray()
        try:
            async with asyncio.timeout(patience_seconds):
                while more := await reader.read(65536):
                    answer += more
        except TimeoutError:
            writer.write_eof()  # it waits for the rest of a body, which took the last request for its own
            async with asyncio.timeout(5):
                answer += await reader.read()
        except ConnectionError:
            pass  # closed with something of ours unread
    except ConnectionError:
        return []
    finally:
        writer.close()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=conversations())
async def test_whatever_is_sent_is_answered_or_closed(worker: Worker, pieces: list[bytes]) -> None:  # noqa: F811
    await outlives(worker, pieces)


async def test_no_line_of_a_header_breaks_a_prediction(worker: Worker) -> None:  # noqa: F811
    head, _, rest = request().partition(b"\r\n")
    for line in LINES:
        await outlives(worker, [head + b"\r\n" + line + b"\r\n" + rest])


async def outlives(worker: Worker, pieces: list[bytes]) -> None:  # noqa: F811
    before = server_errors()

    await conversation(worker, pieces, patience_seconds=0.2)

    await in_flight(worker, 0)
    assert server_errors() == before, pieces
    assert await conversation(worker, [request()], patience_seconds=10) == [200, 200]
    assert worker.replica.predictor._flights == {}
