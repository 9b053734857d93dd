"""Where the end of a job may be reported to."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from api.errors import InvalidParameters

_MAX_URL_CHARACTERS = 2000
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class CallbackPolicy:
    can_sign: bool
    """Whether there is a key to sign callbacks with."""

    to_private_addresses: bool
    """Whether they may go to addresses that are not of the internet."""

    def check(self, url: str) -> None:
        """What can be seen without asking DNS, whose answer is checked at each delivery. Raises InvalidParameters."""
        if not self.can_sign:
            raise InvalidParameters("callbacks are not set up here: SHOAL_CALLBACK_SECRET (callback_url)")
        try:
            parts = urlsplit(url)
            port = parts.port  # raises ValueError, as urlsplit does
        except ValueError as error:
            raise InvalidParameters(f"expected a URL: {error} (callback_url)") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise InvalidParameters("expected a URL that begins with https:// or http:// (callback_url)")
        if not url.isascii() or any(character.isspace() for character in url) or len(url) > _MAX_URL_CHARACTERS:
            raise InvalidParameters(f"expected a URL of at most {_MAX_URL_CHARACTERS} ASCII characters (callback_url)")
        if parts.username is not None:
            raise InvalidParameters("expected a URL without a name and a password in it (callback_url)")
        try:
            address = ipaddress.ip_address(parts.hostname)
        except ValueError:
            return  # a name
        if not self.allows(address):
            raise InvalidParameters(f"expected an address of the internet, got {address} (callback_url)")

    def allows(self, address: Address) -> bool:
        """Whether a callback may be sent to it."""
        if self.to_private_addresses:
            return True
        # What is written as IPv6 and goes to an IPv4 address is judged by that.
        if isinstance(address, ipaddress.IPv6Address):
            embedded = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
            if embedded:
                return self.allows(embedded)
            if address in _NAT64:
                return self.allows(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        return address.is_global and not address.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
