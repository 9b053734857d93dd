"""Bodies in and replies out."""

from __future__ import annotations

from typing import NamedTuple

from starlette.types import Receive, Send

from api import problems
from api.context import RequestContext
from api.errors import BodyTooLarge, ServingError, UnsupportedMediaType

JSON = b"application/json"


class ClientLeft(Exception):
    """The client hung up before its request was whole, or before its answer was there. There is nobody to answer."""


class Reply(NamedTuple):
    """What is sent, but for the headers that every reply has: request id and length."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def problem_reply(
    context: RequestContext, problem: problems.Problem, detail: str, error: ServingError | None = None
) -> Reply:
    context.outcome = problem.slug
    body = problems.body(problem, detail, context.request_id)
    return Reply(problem.status, tuple(problems.headers(error)), body)


async def read_json_body(context: RequestContext, receive: Receive, *, max_bytes: int) -> bytes:
    """The whole body, declared as JSON.

    Raises:
        UnsupportedMediaType: it is declared as something else, or not at all.
        BodyTooLarge: it is longer than `max_bytes`; no more than that is ever held.
        ClientLeft: it did not arrive whole.
    """
    media_type = context.headers.get(b"content-type", b"")
    if media_type != JSON:
        _check_media_type(media_type)
    if int(context.headers.get(b"content-length", b"0")) > max_bytes:
        raise BodyTooLarge(
            f"expected a body of at most {max_bytes} bytes, got {context.headers[b'content-length'].decode()}"
        )
    message = await receive()
    if not message.get("more_body") and message["type"] == "http.request":
        return _bounded(message.get("body", b""), max_bytes)  # nearly always: all of it in one piece
    body = bytearray()
    while message["type"] == "http.request":
        _bounded(message.get("body", b""), max_bytes - len(body))
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()
    raise ClientLeft


def _check_media_type(media_type: bytes) -> None:
    essence = media_type.split(b";")[0].strip().lower()
    if essence != JSON:
        got = essence.decode("latin-1") or "no content-type"
        raise UnsupportedMediaType(f"expected content-type application/json, got {got}")


def _bounded(piece: bytes, room: int) -> bytes:
    if len(piece) > room:
        raise BodyTooLarge(f"the body is longer than the limit, by at least {len(piece) - room} bytes")
    return piece


async def send_reply(send: Send, reply: Reply) -> None:
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
