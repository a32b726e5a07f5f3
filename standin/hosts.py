"""Host names and origins, as the headers `Host` and `Origin` and the command line give them."""

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?", re.ASCII | re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """What a browser goes by: two pages with different origins are foreign to each other."""

    scheme: str
    host: str
    port: int


def host_and_port(authority: str) -> tuple[str, int | None] | None:
    """The two parts of `HOST` or `HOST:PORT`, the host as `_normal` has it; None for no such."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None or (host := _normal(found[1])) is None:
        return None
    return host, int(found[2]) if found[2] else None


def _normal(host: str) -> str | None:
    """Lower case and without the final dot of a full name; None for an address that is none."""
    if not host.startswith("["):
        return host.lower().removesuffix(".") or None
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    except ValueError:
        return None


def origin_of(url: str) -> Origin | None:
    """The origin of an absolute http(s) URL, or of an `Origin` header; None for any other text."""
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    parts = host_and_port(re.split(r"[/?#]", rest, maxsplit=1)[0])
    if not separator or parts is None or scheme not in _DEFAULT_PORTS:
        return None
    host, port = parts
    return Origin(scheme, host, port or _DEFAULT_PORTS[scheme])


def is_loopback(host: str) -> bool:
    """Whether a host of `host_and_port` can only be the machine that names it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bare_host(text: str) -> str:
    """A host as `host_and_port` has it. Raises ValueError for a URL, or a host with a port."""
    parts = host_and_port(f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text)
    if parts is None or parts[1] is not None:
        raise ValueError(f"{text!r} is not a host name or an address without a port")
    return parts[0]


def check_public_url(text: str) -> None:
    """Raises ValueError for a text that is no http(s) address to which a path can be added."""
    parts = urlsplit(text)
    if origin_of(text) is None or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not an address such as http://127.0.0.1:8100")
