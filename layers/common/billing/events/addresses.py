"""Decides which addresses an endpoint may have, so that callers cannot reach private networks.

A URL is checked when it is given (`problem_of`). The IP addresses of its host are checked each time
a connection is made (`is_public`), because the owner of a name can change its addresses at any
time.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

_GLOBAL_UNICAST = ip_network("2000::/3")
# Forms of IPv6 that contain an IPv4 address of another network: 6to4 and Teredo.
_TUNNELS = (ip_network("2002::/16"), ip_network("2001::/32"))
_NAT64 = ip_network("64:ff9b::/96")

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?", re.IGNORECASE)
# If the last label has this form, the host is an IPv4 address in another spelling (WHATWG URL).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)


def is_public(address: str) -> bool:
    """Returns whether the IP address belongs to the public internet."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped
        if inner is None and ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is None:
            tunnelled = any(ip in each for each in _TUNNELS)
            return ip in _GLOBAL_UNICAST and not tunnelled and ip.is_global
        ip = inner
    return ip.is_global and not (ip.is_private or ip.is_multicast or ip.is_reserved)


def is_loopback(address: str) -> bool:
    """Returns whether the IP address is this machine's own."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def problem_of(url: str, *, allow_loopback: bool) -> str | None:
    """Returns why an endpoint cannot have this URL, for people; None if it can.

    `allow_loopback`: http to this machine is allowed as well (the local stack).
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return "must be a URL of printable ASCII characters without spaces"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "must be a URL"
    if "@" in parts.netloc:
        return "must not have a user or a password"
    if "#" in url or port == 0:
        return "must not have a fragment or the port 0"
    host = parts.hostname or ""
    if allow_loopback and parts.scheme == "http" and (host == "localhost" or is_loopback(host)):
        return None
    return _problem_of_host(host) if parts.scheme == "https" else "must begin with https://"


def _problem_of_host(host: str) -> str | None:
    try:
        ip_address(host)
    except ValueError:
        labels = host.rstrip(".").split(".")
        if not _NAME.fullmatch(host) or len(host) > 253 or _NUMBER.fullmatch(labels[-1]):
            return "must have a host name"
        return None if len(labels) > 1 else "must have a public host name"
    return None if is_public(host) else "must have a public address"
