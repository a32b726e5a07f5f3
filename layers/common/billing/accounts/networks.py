"""The networks that a client's address belongs to, for counting attempts."""

import re
from ipaddress import IPv6Address, ip_address, ip_network

# An address as proxies write it: with a port, and IPv6 then in brackets.
_WITH_PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<v4>[0-9.]+))(?::[0-9]{1,5})?")

UNKNOWN = "unknown"


def of(address: str) -> tuple[str, ...]:
    """The networks of an address, the narrowest first; `unknown` for a text that is no address.

    Of IPv4 that is the address alone. Of IPv6 it is the first 64 bits, which one household has, and
    the first 48, which one customer of a provider can have. The address may have a port, brackets
    and a zone, which are left out.
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
