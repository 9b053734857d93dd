"""Which inputs are the same question: the content address of an answer."""

from __future__ import annotations

from hashlib import blake2b


class KeySpace:
    """The keys of one model version.

    A key is `shoal:<model>:<version>:` and 20 bytes of hash. The names are for people; the hash alone decides. It
    covers the digest of weights and configuration, the epoch, and the row's canonical bytes. The digest includes dtype
    and shape, so a row of shape [2, 3] never meets one of shape [3, 2], and replacing a model under the same name and
    version leaves its old answers unreachable; so does a new epoch, which is what flushing the cache means.
    """

    def __init__(self, model: str, version: str, digest: str) -> None:
        """digest: hex, 64 characters; see models/repository.py for what it covers."""
        self.prefix = f"shoal:{model}:{version}:".encode()
        """What every key of this model version begins with, and no key of another."""
        self._digest = bytes.fromhex(digest)
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """Of the last flush, as epochs.py has it; 0 where there was none. Setting it moves on to other keys."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        # 20 bytes: with 10^12 answers in the cache the chance of any collision is below 10^-24. Both parts before the
        # row have a fixed length, so no row can pass for another's digest.
        self._begin = blake2b(self._digest + epoch.to_bytes(8, "big"), digest_size=20).copy

    def key(self, row: bytes) -> bytes:
        """row: the canonical float32 bytes of one row; see rows.py."""
        # A copy of what was begun costs half of a new blake2b with its arguments: 0.43 us in all against 0.91.
        hash = self._begin()
        hash.update(row)
        return self.prefix + hash.digest()
