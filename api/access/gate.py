"""Whether a request may go on: open to all, to the holder of a key, or to the holder of the admin token.

A key comes as `X-API-Key: <key>` or `Authorization: Bearer <key>`; where both come, the first is looked at. nginx makes
one header of them, with the key that it counted (conf.d/api.conf).
"""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from api import metrics
from api.access.admin_token import UnreadableToken, make_token, read_token
from api.access.keys import ADMIN, ApiKey, UnreadableKeys, digest_of, read_keys
from api.context import RequestContext
from api.errors import AdminOnly, KeyRequired

logger = logging.getLogger(__name__)

# For who has no key to give: probes of an orchestrator, and Prometheus, which nginx keeps the world away from. Neither
# says anything of a request or its answer.
OPEN = frozenset(("/health/live", "/health/ready", "/metrics"))

# The same paths that conf.d/api.conf lets nobody through to. `$` is before a newline at the end too, as in Starlette's
# patterns.
_ADMIN = re.compile(r"/admin(/|$)|/models/[^/]+/(routing|rollback)(/|$)")


def is_for_admins(path: str) -> bool:
    return _ADMIN.match(path) is not None


class Gate:
    """Knows the hashes of the keys and of the admin token, and learns of changes to their files by `refresh`."""

    def __init__(self, *, keys_file: Path | None, admin_token_file: Path) -> None:
        """keys_file: None asks nobody for a key. admin_token_file: made if it is not there."""
        self._keys_file = keys_file
        self._admin_token_file = admin_token_file
        self._keys: list[ApiKey] = []
        self._admin_digest: bytes | None = None
        self._names: dict[bytes, str] = {}
        """Hash to name, of the keys that were found; never more than there are keys."""
        self._stamps: dict[Path, object] = {}
        self.asks = keys_file is not None
        """Whether predictions and the rest need a key."""
        self._make_token()
        self.refresh()

    def admits(self, context: RequestContext) -> bool:
        """Whether its key is known; the request is then counted for it. For what is neither open nor an admin's."""
        name = self._name_of(_presented(context.headers))
        if name is None:
            return False
        context.key = name
        return True

    def check(self, context: RequestContext) -> None:
        """Raises KeyRequired, AdminOnly."""
        if context.path in OPEN:
            return
        if is_for_admins(context.path):
            self._check_admin(context)
        elif self.asks and not self.admits(context):
            raise _refusal(context, "an API key")

    def refresh(self) -> None:
        """Reads again what has changed. What cannot be read leaves the keys as they were: a file that is just being
        replaced must lock nobody out."""
        if self._keys_file is not None and self._changed(self._keys_file):
            try:
                self._keys = read_keys(self._keys_file)
            except UnreadableKeys as error:
                logger.error("the API keys stay as they were, %d: %s", len(self._keys), error)
                metrics.KEYS_UNREADABLE.set(1)
            else:
                self._names.clear()
                metrics.KEYS_UNREADABLE.set(0)
                logger.info("%d API keys are known", len(self._keys))
        if self._changed(self._admin_token_file):
            try:
                self._admin_digest = digest_of(read_token(self._admin_token_file).encode())
            except UnreadableToken as error:
                self._admin_digest = None
                logger.error("admin routes are closed to everyone: %s", error)

    def _make_token(self) -> None:
        try:
            if make_token(self._admin_token_file):
                logger.info("made an admin token, in %s", self._admin_token_file)
        except OSError as error:
            logger.warning("no admin token was made: %s: %s", self._admin_token_file, error.strerror)

    def _changed(self, file: Path) -> bool:
        """Whether it is another file than at the last look; the first look finds it so."""
        try:
            stat = file.stat()
            stamp: object = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            stamp = None
        before = self._stamps.get(file, self)
        self._stamps[file] = stamp
        return stamp != before

    def _name_of(self, key: bytes) -> str | None:
        """A look by hash into those found before: what an attacker could learn from its time is of the hash of a guess,
        which is no step towards another guess. The search itself takes as long whichever key it is, or none."""
        digest = digest_of(key)
        name = self._names.get(digest)
        if name is None:
            for known in self._keys:
                if hmac.compare_digest(known.digest, digest):
                    name = known.name
            if name is not None:
                self._names[digest] = name
        return name

    def _check_admin(self, context: RequestContext) -> None:
        key = _presented(context.headers)
        if self._admin_digest is not None and hmac.compare_digest(self._admin_digest, digest_of(key)):
            context.key = ADMIN
        elif self.admits(context):
            raise AdminOnly("expected the admin token, got an API key")
        else:
            raise _refusal(context, "the admin token")


def _presented(headers: Mapping[bytes, bytes]) -> bytes:
    """What the caller shows; empty if nothing."""
    key = headers.get(b"x-api-key")
    if key is None:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return b""
    return key.strip()


def _refusal(context: RequestContext, wanted: str) -> KeyRequired:
    expected = f"expected {wanted}, as `Authorization: Bearer …` or `X-API-Key: …`"
    return KeyRequired(f"{expected}, got {'one that is not known' if _presented(context.headers) else 'none'}")
