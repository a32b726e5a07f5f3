"""Host names and origins, from the headers `Host` and `Origin` and from the command line."""

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?", re.ASCII | re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """An origin as browsers define it: pages with different origins may not read each other."""

    scheme: str
    host: str
    port: int


def host_and_port(authority: str) -> tuple[str, int | None] | None:
    """Returns host (in the form of `_normal`) and port of `HOST` or `HOST:PORT`; None for other
    text.
    """
    found = _AUTHORITY.fullmatch(authority)
    if found is None or (host := _normal(found[1])) is None:
        return None
    return host, int(found[2]) if found[2] else None


def _normal(host: str) -> str | None:
    """Returns the host in lower case, without a final dot; None for an address that is none."""
    if not host.startswith("["):
        return host.lower().removesuffix(".") or None
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    except ValueError:
        return None


def origin_of(url: str) -> Origin | None:
    """Returns the origin of an absolute http(s) URL, or of an `Origin` header; None for other
    text.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    parts = host_and_port(re.split(r"[/?#]", rest, maxsplit=1)[0])
    if not separator or parts is None or scheme not in _DEFAULT_PORTS:
        return None
    host, port = parts
    return Origin(scheme, host, port or _DEFAULT_PORTS[scheme])


def is_loopback(host: str) -> bool:
    """Returns whether this host (of `host_and_port`) always is the machine that uses the name."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bare_host(text: str) -> str:
    """Returns a host like `host_and_port`. Raises ValueError for a URL, or a host with a port."""
    parts = host_and_port(f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text)
    if parts is None or parts[1] is not None:
        raise ValueError(f"{text!r} is not a host name or an address without a port")
    return parts[0]


def check_public_url(text: str) -> None:
    """Raises ValueError for a text that is no http(s) address to which a path can be appended."""
    parts = urlsplit(text)
    if origin_of(text) is None or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not an address such as http://127.0.0.1:8100")
