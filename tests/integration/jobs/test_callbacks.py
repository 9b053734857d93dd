"""The end of a job is reported to a real server, which checks the signature, breaks, and comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from api.job_worker.courier import reporting
from api.jobs.callbacks import CallbackPolicy
from api.jobs.courier import Courier, sign, signing_key
from api.jobs.database import Database
from api.lifespan import Programs
from api.models.repository import Repository
from api.settings import Settings
from tests.integration.conftest import served
from tests.integration.jobs.conftest import ended, job, rows, submit, working
from tests.servers import eventually_async

SECRET = "a secret of some length"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "callback_secret": SecretStr(SECRET),
            "callback_to_private_addresses": True,
            "callback_timeout_seconds": 1,
            "callback_max_attempts": 3,
        }
    )


class Receiver:
    """Answers POSTs with one status after another, the last for ever; 0 hangs up, -1 never answers."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        self.received.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status > 0:
            location = f"location: {self.url}\r\n" if status == 302 else ""
            writer.write(f"HTTP/1.1 {status} X\r\n{location}content-length: 0\r\n\r\n".encode())
        if status < 0:
            await reader.read()  # until the other side gives up
        writer.close()


@asynccontextmanager
async def listening(receiver: Receiver) -> AsyncIterator[Receiver]:
    async with await asyncio.start_server(receiver.answer, "127.0.0.1", 0) as server:
        receiver.url = f"http://localhost:{server.sockets[0].getsockname()[1]}/hook?x=1"
        yield receiver


def hurry(settings: Settings) -> None:
    """Whatever is due later, is due now."""
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        connection.execute("UPDATE jobs SET callback_due_at = now() WHERE callback_state = 'due'")


async def called_back(client: httpx.AsyncClient, settings: Settings, id: str, attempts: int) -> dict[str, Any]:
    """The callback of the job, once there were so many attempts, without the pauses between them."""

    async def done() -> dict[str, Any] | None:
        callback: dict[str, Any] = (await job(client, id))["callback"]
        if len(callback["deliveries"]) >= attempts:
            return callback
        # In a thread: who holds the lock on that row runs on this one's loop.
        await asyncio.to_thread(hurry, settings)
        return None

    found: dict[str, Any] = await eventually_async(done, within_seconds=30)
    return found


async def test_the_end_of_a_job_is_reported_once_and_signed(
    client: httpx.AsyncClient, settings: Settings, shipped_models: tuple[Repository, Programs]
) -> None:
    async with listening(Receiver(204)) as receiver:
        id = await submit(client, rows(250), callback_url=receiver.url)
        assert (await job(client, id))["callback"]["state"] == "waiting"
        async with working(settings, *shipped_models), reporting(settings):
            await ended(client, id)
            callback = await called_back(client, settings, id, attempts=1)

    assert callback["state"] == "delivered"
    assert [each["status"] for each in callback["deliveries"]] == [204]
    [(headers, body)] = receiver.received
    sent = json.loads(body)
    assert (sent["type"], sent["job"]["id"], sent["job"]["rows_done"]) == ("job.done", id, 250)
    assert headers["webhook-id"].startswith(id)
    at = int(headers["webhook-timestamp"])
    assert headers["webhook-signature"] == sign(signing_key(SECRET), headers["webhook-id"], at, body)


async def test_a_callback_that_fails_is_tried_again_until_it_is_given_up(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    async with (
        listening(Receiver(500, 0, 200)) as comes_back,
        listening(Receiver(302, -1)) as never,
        reporting(settings),
    ):
        ids = [await submit(client, rows(1), callback_url=receiver.url) for receiver in (comes_back, never)]
        for id in ids:
            await client.delete(f"/jobs/{id}")  # ends too
        good, bad = [await called_back(client, settings, id, attempts=3) for id in ids]

    assert (good["state"], bad["state"]) == ("delivered", "given up")
    assert [each["status"] for each in good["deliveries"]] == [500, None, 200]
    assert good["deliveries"][2]["error"] is None
    assert [each["status"] for each in bad["deliveries"]] == [302, None, None]  # not followed
    assert "no answer within 1 s" in bad["deliveries"][1]["error"]
    assert len({headers["webhook-id"] for headers, _ in comes_back.received}) == 1
    assert json.loads(comes_back.received[0][1])["type"] == "job.cancelled"


async def test_what_one_courier_has_in_hand_the_others_leave_out(client: httpx.AsyncClient, settings: Settings) -> None:
    database = Database(dsn=settings.postgres_dsn, password=None, pool_size=2)
    await database.open()
    policy = CallbackPolicy(can_sign=True, to_private_addresses=True)
    first, second = [
        Courier(database, secret=SECRET, policy=policy, timeout_seconds=1, max_attempts=3) for _ in range(2)
    ]
    async with listening(Receiver(-1)) as receiver:
        id = await submit(client, rows(1), callback_url=receiver.url)
        await client.delete(f"/jobs/{id}")
        delivering = asyncio.create_task(first.deliver_due())
        await eventually_async(lambda: receiver.received)
        assert await second.deliver_due() == 0
        assert await delivering == 1
    await database.close()


async def test_a_name_that_leads_inside_is_not_connected_to(
    settings: Settings, shipped_models: tuple[Repository, Programs]
) -> None:
    """Its name says nothing, so it is taken; what it stands for is known at the delivery."""
    strict = settings.model_copy(update={"callback_to_private_addresses": False})
    async with listening(Receiver(200)) as receiver, served(strict, *shipped_models) as client, reporting(strict):
        assert (
            await client.post("/jobs?callback_url=http://127.0.0.1/", json={"instances": rows(1)})
        ).status_code == 422
        id = await submit(client, rows(1), callback_url=receiver.url)  # of localhost
        await client.delete(f"/jobs/{id}")
        callback = await called_back(client, strict, id, attempts=1)
        assert "is not an address of the internet" in callback["deliveries"][0]["error"]
        assert receiver.received == []
