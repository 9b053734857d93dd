"""The admin token: a file with one line, made at start where there is none."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

_FEWEST = 20  # characters; a token that a person thought up is shorter


class UnreadableToken(ValueError):
    """There is no token in the file. The message is one line."""


def make_token(file: Path) -> bool:
    """Writes a random token that only its owner may read, unless the file is there already.

    Returns:
        Whether it was made; whoever else is about to make one, all find the same.
    Raises:
        OSError: it can be neither found nor made.
    """
    if file.exists():
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".admin-token-")  # its mode is 0600
    try:
        with open(descriptor, "w") as opened:
            opened.write(secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)  # whole, or not at all
            return True
        return False
    finally:
        Path(temporary).unlink()


def read_token(file: Path) -> str:
    """Raises UnreadableToken: the file is not there, cannot be read, or holds none."""
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableToken(f"{file}: {getattr(error, 'strerror', None) or 'is no text'}") from error
    if len(token) < _FEWEST or not token.isascii() or len(token.split()) != 1:
        raise UnreadableToken(f"{file}: expected one word of at least {_FEWEST} characters")
    return token
