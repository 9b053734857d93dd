"""What is the same question, and what is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.cache.keys import KeySpace

DIGEST = "ab" * 32


@given(one=st.binary(min_size=4, max_size=64), other=st.binary(min_size=4, max_size=64))
def test_keys_are_equal_when_and_only_when_rows_are(one: bytes, other: bytes) -> None:
    keys = KeySpace("penguins", "2", DIGEST)

    assert (keys.key(one) == keys.key(other)) == (one == other)


@given(row=st.binary(min_size=4, max_size=64))
def test_another_model_version_or_digest_never_shares_a_key(row: bytes) -> None:
    spaces = [
        KeySpace("penguins", "2", DIGEST),
        KeySpace("penguins", "1", DIGEST),
        KeySpace("digits", "2", DIGEST),
        KeySpace("penguins", "2", "cd" * 32),
    ]

    hashes = {space.key(row) for space in spaces}

    assert len(hashes) == len(spaces)


@given(row=st.binary(min_size=4, max_size=64), epochs=st.sets(st.integers(0, 2**64 - 1), min_size=2, max_size=9))
def test_no_two_epochs_share_a_key_and_one_that_comes_back_has_its_own(row: bytes, epochs: set[int]) -> None:
    keys = KeySpace("penguins", "2", DIGEST)
    seen = {}
    for epoch in epochs:
        keys.epoch = epoch
        seen[epoch] = keys.key(row)

    assert len(set(seen.values())) == len(epochs)
    for epoch, key in seen.items():
        other = KeySpace("penguins", "2", DIGEST)
        other.epoch = epoch
        assert other.key(row) == key


def test_the_hash_alone_tells_digests_apart() -> None:
    """The names before it are for people: a model replaced under its old name must not find old answers."""
    old = KeySpace("penguins", "2", DIGEST).key(b"row!")
    new = KeySpace("penguins", "2", "cd" * 32).key(b"row!")

    assert old[:-20] == new[:-20] == b"shoal:penguins:2:"
    assert old[-20:] != new[-20:]
