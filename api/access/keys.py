"""The file of API keys: names, and hashes of keys that only their owners have.

    # name   sha256 of the key                        made on
    alice    5e884898da28047151d0e56f8dc62927…        2026-11-26

A key is 256 random bits, so that its bare SHA-256 gives nothing away: there is no dictionary to try. The same name may
stand there twice, which is how a key is replaced: the new one is added, and the old one revoked when nobody uses it.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ADMIN = "admin"
"""What the holder of the admin token is called, so that no key is."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = "shoal_"  # tells it from other secrets, for people and for scanners of repositories
_MOST_KEYS = 1000  # each name is a label of the metrics


class UnreadableKeys(ValueError):
    """The file cannot be read, or is no file of keys. The message is one line, without what a line held."""


class ApiKey(NamedTuple):
    """What is known of a key."""

    name: str
    digest: bytes
    """SHA-256 of the key."""
    made: str
    """The day, as ISO 8601 has it; empty if the file does not say."""

    @property
    def id(self) -> str:
        """Tells two keys of one name apart."""
        return self.digest.hex()[:8]


def digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(file: Path) -> list[ApiKey]:
    """The keys of a file, in its order.

    Raises:
        UnreadableKeys: it is not there, cannot be read, or a line of it is broken.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableKeys(f"{file}: {getattr(error, 'strerror', None) or 'is no text'}") from error
    keys = [_parse(file, number, line) for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    if len(keys) > _MOST_KEYS:
        raise UnreadableKeys(f"{file}: expected at most {_MOST_KEYS} keys, got {len(keys)}")
    return keys


def _parse(file: Path, number: int, line: str) -> ApiKey:
    name, digest, *rest = [*line.split(), "", ""]
    if name == ADMIN or not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
        raise UnreadableKeys(f"{file}: line {number} is no name and SHA-256")
    return ApiKey(name, bytes.fromhex(digest), rest[0])


def add_key(file: Path, name: str) -> str:
    """Makes a key and appends its hash to the file, which is made if it is not there.

    Returns:
        The key, which nobody will see again.
    Raises:
        ValueError: the name is none, or the file no file of keys.
    """
    if name == ADMIN or not _NAME.fullmatch(name):
        raise ValueError(f"expected a name of letters, digits, '.', '_' and '-', at most 64, not {ADMIN!r}")
    key = _PREFIX + secrets.token_urlsafe(32)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    with _rewriting(file) as lines:
        lines.append(f"{name} {digest_of(key.encode()).hex()} {today}")
    return key


def revoke_keys(file: Path, name: str, id: str | None = None) -> int:
    """Removes the keys of a name, or the one of them with that id.

    Returns:
        How many were removed.
    """
    removed = 0
    with _rewriting(file) as lines:
        for line in list(lines):
            fields = line.split()
            if fields and fields[0] == name and (id is None or fields[1].startswith(id)):
                lines.remove(line)
                removed += 1
    return removed


@contextlib.contextmanager
def _rewriting(file: Path) -> Iterator[list[str]]:
    """The lines of the file, to be changed; then they are the file's. A reader finds the old ones or the new ones."""
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # let go with the descriptor
        if file.exists():
            read_keys(file)  # what is no file of keys is left alone
            lines = file.read_text().splitlines()
        else:
            lines = ["# name, SHA-256 of the key, day it was made"]
        yield lines
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".keys-", delete=False) as new:
            new.writelines(f"{line}\n" for line in lines)
            new.flush()
            os.fchmod(new.fileno(), 0o644)  # the replicas may be another user; hashes of random keys are no secret
            os.fsync(new.fileno())
        Path(new.name).replace(file)
        os.fsync(folder)
    finally:
        os.close(folder)
