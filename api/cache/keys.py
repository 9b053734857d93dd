"""Which inputs are the same question: the content address of an answer."""

from __future__ import annotations

from hashlib import blake2b


class KeySpace:
    """The keys of one model version.

    A key is `shoal:<model>:<version>:<hash>`. The names are for people and for flushing by model; the hash alone
    decides. It covers the row's canonical bytes and, as blake2b's own key, the digest of weights and configuration.
    That digest includes dtype and shape, so a row of shape [2, 3] never meets one of shape [3, 2], and replacing a
    model under the same name and version leaves its old answers unreachable.
    """

    def __init__(self, model: str, version: str, digest: str) -> None:
        """digest: hex, 64 characters; see models/repository.py for what it covers."""
        self._prefix = f"shoal:{model}:{version}:".encode()
        self._digest = bytes.fromhex(digest)

    def key(self, row: bytes) -> bytes:
        """row: the canonical float32 bytes of one row; see rows.py."""
        # 20 bytes: with 10^12 answers in the cache the chance of any collision is below 10^-24.
        return self._prefix + blake2b(row, digest_size=20, key=self._digest).hexdigest().encode()
