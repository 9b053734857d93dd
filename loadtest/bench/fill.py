"""Stores as they are after a long time: rows in `predictions` and answers in Redis, in bulk, shaped like real ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import psycopg
import redis

from api.cache.commands import set_many
from api.cache.keys import KeySpace
from api.cache.sealed import seal_many
from loadtest.bench.subject import Stores

DAYS = 90  # that predictions are kept: SHOAL_LOG_RETENTION_DAYS
_TTL_SECONDS = 3600  # SHOAL_CACHE_TTL_SECONDS
_CHUNK = 50_000
_HASH_BYTES = 20  # of a key
_SEGMENTS = 16  # min_wal_size in db/postgresql.conf

# A row for each day, in the default partition, from where the schema's own function gives each day a partition.
_DAY = """
INSERT INTO predictions
SELECT gen_random_uuid(), day, 'penguins', '2', '[39.1, 18.7, 181.0]', '0', 'Adelie', 0.99, 'miss', ''
FROM generate_series(date_trunc('day', now()) - %s * interval '1 day', now() - interval '2 days', '1 day') AS day
"""
# As api/prediction_log/record.py makes them: a UUIDv7 of the time, in milliseconds, and of a hash. And as large: real
# rows that are smaller would first fill the gaps at the end of all these pages, and each time read another page.
_ROWS = """
INSERT INTO predictions
SELECT (lpad(to_hex(ms), 12, '0') || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid,
       to_timestamp(ms / 1000.0), 'penguins', '2',
       format('[%%s.%%s,%%s.%%s,%%s.0]', 34 + n %% 16, 10 + n %% 89, 13 + n %% 8, n %% 9, 172 + n %% 63)::json,
       to_jsonb(n %% 3), (ARRAY['Adelie', 'Chinstrap', 'Gentoo'])[n %% 3 + 1], 0.5 + n %% 49999 / 100000.0, 'miss',
       hash
FROM (
    SELECT n, md5(n::text) AS hash,
           (extract(epoch FROM since + (now() - since) * (n / %s::float8)) * 1000)::bigint AS ms
    FROM generate_series(1, %s) AS n,
         (SELECT date_trunc('day', now()) - %s * interval '1 day' AS since) AS period
) AS row
"""


def predictions(stores: Stores, rows: int, *, today: bool = False) -> None:
    """Rows of one model, evenly over all days for which predictions are kept, or all of them since midnight (UTC); and
    one for each day. The schema must be there. Leaves nothing that would be done in the background."""
    days = DAYS - 1
    with psycopg.connect(stores.dsn, autocommit=True) as connection:
        connection.execute(_DAY, [days])
        connection.execute("SELECT ensure_prediction_partitions(0, %s)", [DAYS])
        connection.execute(_ROWS, [rows, rows, 0 if today else days])
        connection.execute("VACUUM (ANALYZE) predictions")
        write_ahead_log(connection, _SEGMENTS)


def write_ahead_log(connection: psycopg.Connection[tuple[object, ...]], segments: int) -> None:
    """Segments of it that lie there to be used again. A new Postgres makes each as it comes to it, 16 MB of zeroes, for
    which everybody waits some 50 ms: that is its age, not its rows. connection: in autocommit mode."""
    for _ in range(segments):
        connection.execute("SELECT pg_logical_emit_message(false, 'bench', ''), pg_switch_wal()")
    connection.execute("CHECKPOINT")


def answers(stores: Stores, keys: int, *, unlimited: bool = True) -> None:
    """Answers of 3 classes each, under keys that no row has. Redis is not to save them of its own accord, which would
    take a core from whatever is measured just then.

    unlimited: beyond the memory that db/redis.conf allows; else some make room for others.
    """
    with redis.Redis(unix_socket_path=str(stores.redis_socket)) as client:
        client.config_set("save", "")
        if unlimited:
            client.config_set("maxmemory", 0)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(stores.redis_socket))
        for commands, count in _commands(keys):
            connection.sendall(commands)
            _read_ok(connection, count)


def save(stores: Stores) -> None:
    """Has Redis begin to write all it holds to disk, as it does once a minute by db/redis.conf."""
    with redis.Redis(unix_socket_path=str(stores.redis_socket)) as client:
        client.bgsave()


def _commands(keys: int) -> Iterator[tuple[bytes, int]]:
    """SET commands in pieces, and how many each piece has. One of ours is the pattern; what is chance in it is drawn
    for each anew. So the answers do not fit their checksums, but nobody asks for them."""
    [(key, value)] = pair = seal_many([KeySpace("penguins", "2", "0" * 64).key(b"")], np.zeros((1, 3), np.float32))
    pattern = set_many(pair, _TTL_SECONDS)
    random_at = [(pattern.index(key) + len(key) - _HASH_BYTES, _HASH_BYTES), (pattern.index(value), len(value))]
    numbers = np.random.default_rng(1)
    for begin in range(0, keys, _CHUNK):
        count = min(_CHUNK, keys - begin)
        commands = np.tile(np.frombuffer(pattern, np.uint8), (count, 1))
        for start, length in random_at:
            commands[:, start : start + length] = numbers.integers(256, size=(count, length), dtype=np.uint8)
        yield commands.tobytes(), count


def _read_ok(connection: socket.socket, count: int) -> None:
    """
    Raises:
        OSError: Redis answered anything else.
    """
    expected = b"+OK\r\n" * count
    got = bytearray()
    while len(got) < len(expected) and (piece := connection.recv(1 << 20)):
        got += piece
    if got != expected:
        raise OSError(f"expected {count} times OK from Redis, got {bytes(got[:100])!r}")
