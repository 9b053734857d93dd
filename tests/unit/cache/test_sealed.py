"""A damaged value is a miss, never an answer."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from api.cache.sealed import seal_many, unseal

KEY = b"shoal:penguins:2:00"
OUTPUT = np.array([0.25, 0.5, 0.25], np.float32)
[(_, SEALED)] = seal_many([KEY], np.array([OUTPUT]))


def test_what_was_sealed_comes_back() -> None:
    output = unseal(KEY, SEALED, 3)

    assert output is not None
    assert output.tolist() == OUTPUT.tolist()


def test_each_of_many_is_sealed_under_its_own_key() -> None:
    outputs = np.arange(6, dtype=np.float32).reshape(3, 2)

    for (key, value), output in zip(seal_many([b"a", b"b", b"c"], outputs), outputs, strict=True):
        unsealed = unseal(key, value, 2)
        assert unsealed is not None
        assert unsealed.tolist() == output.tolist()


@given(position=st.integers(0, len(SEALED) - 1), flip=st.integers(1, 255))
def test_any_changed_byte_is_noticed(position: int, flip: int) -> None:
    value = bytearray(SEALED)
    value[position] ^= flip

    assert unseal(KEY, bytes(value), 3) is None


@given(length=st.integers(0, 40))
def test_a_value_of_another_length_is_noticed(length: int) -> None:
    value = (SEALED * 3)[:length]

    assert (unseal(KEY, value, 3) is None) == (length != len(SEALED))


def test_a_value_under_another_key_is_noticed() -> None:
    assert unseal(b"shoal:penguins:2:01", SEALED, 3) is None


def test_a_value_of_a_model_with_another_width_is_noticed() -> None:
    assert unseal(KEY, SEALED, 4) is None
