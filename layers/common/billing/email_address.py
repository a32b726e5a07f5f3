"""Comparing email addresses: different spellings of one address have the same key.

An address is stored as it was typed, with two exceptions: it is in Unicode's form NFC, and a domain
that is not ASCII is in the form in which it is registered (lower case, without full-width
characters). Two spellings are one address if their keys are equal. The key ignores case in every
script, full-width and other compatibility forms, and whether the domain is written in punycode.

Letters are converted to lower case, but not case-folded: strasse.de and straße.de are two domains,
with two owners.
"""

import unicodedata

# Characters that separate the labels of a domain like the full stop does.
_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")

# Invisible characters that are not in the category Cf: fillers, joiners, selectors.
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
) | frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))


def normalized(address: str) -> str:
    """Returns the address as it is stored and shown. Text without "@" is only converted to NFC.

    Raises ValueError for an address with invisible characters, because two such addresses can look
    the same.
    """
    if _has_invisible(address) or any(map(_has_invisible, _labels(address))):
        raise ValueError("must not contain invisible characters")
    if address.isascii():
        return address
    local, at, domain = unicodedata.normalize("NFC", address).rpartition("@")
    if not domain.isascii():
        domain = _lowered(domain)
    return f"{local}{at}{domain}"


def key(address: str) -> str:
    """Returns the key of an address. Two spellings of one address have the same key."""
    local, at, domain = address.rpartition("@")
    labels = [_in_unicode(label) for label in _lowered(domain).split(".")]
    return f"{_lowered(local)}{at}{'.'.join(labels)}"


def _labels(address: str) -> list[str]:
    """Returns the domain's punycode labels, decoded to Unicode."""
    labels = _lowered(address.rpartition("@")[2]).split(".")
    return [_in_unicode(label) for label in labels if label.startswith("xn--")]


def _has_invisible(text: str) -> bool:
    # Cf contains zero-width characters, and characters that change the direction of writing.
    return not text.isascii() and any(
        unicodedata.category(each) == "Cf" or each in _INVISIBLE for each in text
    )


def _lowered(text: str) -> str:
    # NFKC runs before lower(), because it may make capital letters of compatibility forms, and
    # again after it, because lower() may undo NFKC.
    text = unicodedata.normalize("NFKC", text.translate(_DOTS)).lower()
    # the lower case of a capital sigma depends on its neighbours
    text = text.replace("\u03c2", "\u03c3")
    return unicodedata.normalize("NFKC", text)


def _in_unicode(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        return _lowered(label[4:].encode("ascii").decode("punycode"))
    except (UnicodeError, OverflowError):
        return label
