"""The second tier: Redis, shared by all replicas, on a time budget and behind a breaker. A broken Redis is a miss."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from api import metrics
from api.cache.breaker import Breaker

logger = logging.getLogger(__name__)

_BROKEN = (RedisError, OSError, TimeoutError)
_MAX_PENDING_WRITES = 10_000  # answers, about 2 MB; beyond, Redis is slower than the models and the newest are dropped
_MAX_WRITES_A_TRIP = 1000
_WRITE_SECONDS = 1  # nobody waits for a write, so on a busy machine it may take longer than a lookup


def connect(url: str, *, password: str | None, budget_seconds: float) -> Redis:
    """A client that fails fast. Nothing is connected yet.

    redis-py would retry ten times over 4 s, and its default pool refuses a caller when all connections are out.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        password=password,
        max_connections=16,
        timeout=budget_seconds,
        socket_timeout=_WRITE_SECONDS,
        socket_connect_timeout=budget_seconds,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # 3 adds a handshake for server-sent maintenance notices, which nothing here listens to
    )
    return Redis.from_pool(pool)


class SharedCache:
    """Values by key. Reads never raise and never take longer than their budget; writes return at once."""

    def __init__(self, redis: Redis, *, ttl_seconds: int, budget_seconds: float, breaker: Breaker) -> None:
        self._redis = redis
        self._ttl_seconds = ttl_seconds
        self._budget_seconds = budget_seconds
        self._breaker = breaker
        self._pending: dict[bytes, bytes] = {}
        self._writer: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return not self._breaker.is_open

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        """One MGET for all keys. None where Redis failed, was not done within the budget, or was not asked."""
        if not self._breaker.allows():
            metrics.CACHE_SKIPPED.inc(len(keys))
            return None
        try:
            async with asyncio.timeout(self._budget_seconds):
                values: list[Any] = await self._redis.mget(keys)
        except _BROKEN as error:
            metrics.CACHE_ERRORS.inc(len(keys))
            self._failed("lookup", error)
            return None
        self._succeeded()
        return values

    def put_many(self, values: dict[bytes, bytes]) -> None:
        """Hands the values to the writer. Not awaited by any answer: losing one costs a later miss."""
        if len(self._pending) >= _MAX_PENDING_WRITES or not self.is_up:
            metrics.CACHE_WRITE_FAILURES.inc(len(values))
            return
        self._pending.update(values)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all(), name="cache-writer")

    async def _write_all(self) -> None:
        while self._pending:
            trip = [self._pending.popitem() for _ in range(min(len(self._pending), _MAX_WRITES_A_TRIP))]
            try:
                async with asyncio.timeout(_WRITE_SECONDS), self._redis.pipeline(transaction=False) as pipeline:
                    for key, value in trip:
                        pipeline.set(key, value, ex=self._ttl_seconds)
                    results = await pipeline.execute(raise_on_error=False)
            except _BROKEN as error:
                metrics.CACHE_WRITE_FAILURES.inc(len(trip) + len(self._pending))
                self._pending.clear()
                self._failed("write", error)
                return
            if refused := [result for result in results if isinstance(result, Exception)]:
                # Read-only or out of memory: it still answers lookups, so the breaker stays as it is.
                metrics.CACHE_WRITE_FAILURES.inc(len(refused))
                logger.warning("redis refused %d of %d writes: %s", len(refused), len(trip), refused[0])

    async def ping(self) -> bool:
        """Whether Redis answers within the budget. For health checks; moves the breaker like a lookup."""
        if not self._breaker.allows():
            return False
        try:
            async with asyncio.timeout(self._budget_seconds):
                await self._redis.ping()
        except _BROKEN as error:
            self._failed("ping", error)
            return False
        self._succeeded()
        return True

    async def close(self) -> None:
        """Writes what is still pending, if Redis takes it in time, and disconnects."""
        if self._writer is not None and not self._writer.done():
            await asyncio.wait([self._writer], timeout=_WRITE_SECONDS)
            self._writer.cancel()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def _succeeded(self) -> None:
        if self._breaker.is_open:
            logger.warning("redis is back")
        self._breaker.succeeded()
        metrics.CACHE_BREAKER_OPEN.set(0)

    def _failed(self, what: str, error: BaseException) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed()
        if self._breaker.is_open and not was_open:
            metrics.CACHE_BREAKER_OPEN.set(1)
            logger.warning("redis is left alone after a failed %s: %s: %s", what, type(error).__name__, error)
