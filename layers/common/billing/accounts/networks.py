"""The networks that contain a client's IP address. Attempts are counted by network."""

import re
from ipaddress import IPv6Address, ip_address, ip_network

# An IP address in the form that proxies write: with a port, and IPv6 then in brackets.
_WITH_PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<v4>[0-9.]+))(?::[0-9]{1,5})?")

UNKNOWN = "unknown"


def of(address: str) -> tuple[str, ...]:
    """Returns the networks of an IP address, the narrowest first; `unknown` for any other text.

    For IPv4, the only network is the address itself. For IPv6, the networks are the first 64 bits,
    which one household has, and the first 48 bits, which one customer of a provider can have. The
    address may have a port, brackets and a zone, which are left out.
    """
    found = _WITH_PORT.fullmatch(address.strip())
    text = (found["v6"] or found["v4"] or "") if found else address.strip()
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return (UNKNOWN,)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if isinstance(ip, IPv6Address):
        return tuple(str(ip_network((ip, bits), strict=False)) for bits in (64, 48))
    return (str(ip),)
