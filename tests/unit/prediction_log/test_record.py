"""Ids and packed rows. That Postgres reads the bytes as they are meant is seen in tests/integration."""

from __future__ import annotations

import struct
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.prediction_log.record import COLUMNS, id_of, uuid7
from tests.prediction_rows import Record, pack, record

times = st.integers(0, 2**48 - 1)


@given(times, st.binary(max_size=64))
def test_an_id_is_a_uuid7_of_its_time_and_the_same_every_time(unix_ms: int, seed: bytes) -> None:
    id = UUID(int=uuid7(unix_ms, seed))

    assert (id.version, id.variant) == (7, RFC_4122)
    assert id.int >> 80 == unix_ms
    assert id.int == uuid7(unix_ms, seed)


@given(st.sets(st.binary(max_size=32), min_size=2, max_size=50))
def test_other_seeds_make_other_ids(seeds: set[bytes]) -> None:
    assert len({uuid7(1_700_000_000_000, seed) for seed in seeds}) == len(seeds)


def test_every_bit_of_chance_is_used() -> None:
    fixed = 0xFFFF_FFFF_FFFF << 80 | 0xF << 76 | 0b111 << 61
    seen_set = seen_clear = 0
    for n in range(200):
        id = uuid7(0, n.to_bytes(2, "big"))
        seen_set |= id
        seen_clear |= ~id
    assert (seen_set | fixed) & (seen_clear | fixed) == 2**128 - 1


@given(times, st.binary(max_size=64), st.integers(0, 100_000))
def test_the_rows_of_a_request_count_up_from_its_id(unix_ms: int, seed: bytes, rows: int) -> None:
    first = UUID(int=uuid7(unix_ms, seed))
    last = UUID(int=uuid7(unix_ms, seed) + rows)

    assert (last.version, last.variant) == (7, RFC_4122)
    assert last.int >> 62 == first.int >> 62  # time, version, variant and the upper chance are untouched
    assert first <= last


@given(
    st.builds(
        Record,
        id=st.uuids(),
        unix_ms=times,
        request_id=st.text(),
        model=st.text(),
        version=st.text(),
        input_data=st.binary(),
        prediction=st.binary(),
        label=st.none() | st.text(),
        confidence=st.none() | st.floats(0, 1),
        cache=st.text(),
    )
)
def test_a_packed_row_holds_each_field_behind_its_length(logged: Record) -> None:
    row = pack(logged)

    fields = fields_of(row)
    assert len(fields) == len(COLUMNS)
    assert id_of(row) == logged.id.bytes == fields[0]
    assert fields[4] == logged.input_data
    assert fields[6] == (None if logged.label is None else logged.label.encode())
    assert fields[7] == (None if logged.confidence is None else struct.pack("!d", logged.confidence))
    assert fields[9] == logged.request_id.encode()


def test_a_text_that_is_not_unicode_is_refused_before_it_is_logged() -> None:
    with pytest.raises(UnicodeEncodeError):
        pack(record(request_id="\ud800"))


def fields_of(row: bytes) -> list[bytes | None]:
    (count,) = struct.unpack_from("!h", row)
    at = 2
    fields: list[bytes | None] = []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", row, at)
        at += 4
        fields.append(None if length < 0 else row[at : at + length])
        at += max(length, 0)
    assert at == len(row)
    return fields
