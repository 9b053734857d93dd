"""Bodies to send. Rows are encoded once; the same seed gives the same rows in every process and run."""

from __future__ import annotations

import math
import random
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

SEED = 1
HOT_ROWS = 8
ZIPF_ROWS = 10_000
ZIPF_S = 1.1

# What a number of unique rows is made of, from the high bits to the low ones.
_MILLISECOND_BITS, _PROCESS_BITS, _COUNT_BITS = 40, 8, 18
_KEY_BITS = _MILLISECOND_BITS + _PROCESS_BITS + _COUNT_BITS
_YEAR_2026_MS = 1_767_225_600_000


@dataclass(frozen=True, slots=True)
class Model:
    """A shipped model, and rows for it: JSON text of one row."""

    name: str
    path: str
    classes: int
    realistic: Callable[[random.Random], bytes]
    """A row as measured in the wild; may repeat."""
    distinct: Callable[[int], bytes]
    """The row of a number below 2**66. Two numbers never have the same row, not even rounded to float32."""


# --- penguins: bill length, bill depth and flipper length, in mm ------------------------------------------------------
# Mean and standard deviation by species (Adelie, Chinstrap, Gentoo), from the Palmer penguins.
_SPECIES = (
    ((38.8, 2.7), (18.3, 1.2), (190.0, 6.5)),
    ((48.8, 3.3), (18.4, 1.1), (195.8, 7.1)),
    ((47.5, 3.1), (15.0, 1.0), (217.2, 6.5)),
)


def _penguin(numbers: random.Random) -> bytes:
    bill_length, bill_depth, flipper = (numbers.gauss(*part) for part in numbers.choice(_SPECIES))
    # A digit more than the birds were measured to: otherwise two seeds would have many rows in common.
    return b"[%.2f,%.2f,%.1f]" % (bill_length, bill_depth, flipper)


def _distinct_penguin(key: int) -> bytes:
    # 22 bits for each feature, in steps that float32 can tell apart: its spacing is 2**-18 up to 64, 2**-19 up to 32
    # and 2**-16 up to 256. Ranges: 34 to 50, 13.5 to 21.5, 172 to 236 mm.
    mask = (1 << 22) - 1
    return b"[%.7f,%.7f,%.7f]" % (
        34 + (key & mask) * 2**-18,
        13.5 + (key >> 22 & mask) * 2**-19,
        172 + (key >> 44 & mask) * 2**-16,
    )


# --- digits: images of 8 by 8 grey values, 0 to 16 --------------------------------------------------------------------
# The digits of font8x8 (Daniel Hepper, public domain): a byte is a line, its lowest bit the leftmost pixel.
_FONT = tuple(
    bytes.fromhex(glyph)
    for glyph in (
        "3e63737b6f673e00",
        "0c0e0c0c0c0c3f00",
        "1e33301c06333f00",
        "1e33301c30331e00",
        "383c36337f307800",
        "3f031f3030331e00",
        "1c06031f33331e00",
        "3f3330180c0c0c00",
        "1e33331e33331e00",
        "1e33333e30180e00",
    )
)


def _image(pixels: Sequence[int]) -> bytes:
    lines = (",".join(map(str, pixels[start : start + 8])) for start in range(0, 64, 8))
    return f"[{','.join(f'[{line}]' for line in lines)}]".encode()


def _inked(digit: int) -> Iterator[bool]:
    return (bool(line >> column & 1) for line in _FONT[digit] for column in range(8))


def _digit(numbers: random.Random) -> bytes:
    return _image([numbers.randint(9, 16) if ink else numbers.randint(0, 3) for ink in _inked(numbers.randrange(10))])


def _distinct_digit(key: int) -> bytes:
    # Two bits a pixel shade the ink or the paper: 33 pixels hold the number.
    return _image([12 * ink + (key >> 2 * place & 3) for place, ink in enumerate(_inked(key % 10))])


PENGUINS = Model("penguins", "/predict", 3, _penguin, _distinct_penguin)
DIGITS = Model("digits", "/models/digits/predict", 10, _digit, _distinct_digit)
MODELS = {model.name: model for model in (PENGUINS, DIGITS)}


def single(row: bytes) -> bytes:
    return b'{"features":%b}' % row


def batch(rows: Sequence[bytes]) -> bytes:
    return b'{"instances":[%b]}' % b",".join(rows)


@cache
def pool(model: Model, size: int, seed: int = SEED) -> tuple[bytes, ...]:
    """`size` rows, no two alike."""
    numbers = random.Random(f"{model.name} {seed}")
    rows: dict[bytes, None] = {}
    while len(rows) < size:
        rows[model.realistic(numbers)] = None
    return tuple(rows)


class Zipf:
    """Draws ranks 0 to size - 1, rank k in proportion to 1 / (k + 1)**s. People ask for things like that, s about 1."""

    def __init__(self, size: int, s: float) -> None:
        self._cumulative = list(accumulate(math.pow(rank + 1, -s) for rank in range(size)))
        self._total = self._cumulative[-1]
        self.shares = [math.pow(rank + 1, -s) / self._total for rank in range(size)]

    def draw(self, numbers: random.Random) -> int:
        return min(bisect(self._cumulative, numbers.random() * self._total), len(self.shares) - 1)

    def ideal_hit_rate(self, draws: int) -> float:
        """What one cache for all, empty at first and never full, would answer of so many draws, on average."""
        if not draws:
            return 0.0
        return 1 - sum(1 - math.pow(1 - share, draws) for share in self.shares) / draws


@cache
def zipf() -> Zipf:
    return Zipf(ZIPF_ROWS, ZIPF_S)


def unique_keys(process: int, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> Iterator[int]:
    """Numbers below 2**66 that no other user, process or run gets.

    A number is the millisecond in which its block of 2**18 was begun, the process's index in the run, and a count;
    all users of a process share the iterator. Only two runs begun in the same millisecond would meet.

    Args:
        process: Locust's worker index, below 256.
    Raises:
        ValueError: more processes than there is room for.
    """
    if process >> _PROCESS_BITS:
        raise ValueError(f"expected at most {1 << _PROCESS_BITS} load processes, got one with index {process}")
    begun = -1
    while True:
        # A clock that was set back does not give a block twice, at least within this process.
        begun = max(begun + 1, now_ms() - _YEAR_2026_MS)
        block = (begun << _PROCESS_BITS | process) << _COUNT_BITS
        for number in range(block, block + (1 << _COUNT_BITS)):
            yield _scrambled(number)


def _scrambled(number: int) -> int:
    # An odd factor permutes the numbers, and carries what differs in the low bits into all that are higher: rows that
    # follow each other do not look alike. The factor is 2**66 divided by the golden ratio.
    return number * 0x278DDE6E5FD29F057 % (1 << _KEY_BITS)
