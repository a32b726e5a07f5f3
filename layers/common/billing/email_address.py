"""Email addresses that are written differently and are one address.

An address is stored as it was typed, but for two things: it is in Unicode's form NFC, and a domain
that is not ASCII is in the form in which it is registered (lower case, without full-width
characters). Two addresses are one if their keys are equal. The key ignores case in every script,
full-width and other compatibility forms, and whether the domain is written in punycode.

Letters are lowered and not folded: strasse.de and straße.de are two domains, with two owners.
"""

import unicodedata

# What separates the labels of a domain, beside the full stop.
_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")

# Characters that show nothing and are in other categories than Cf: fillers, joiners, selectors.
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
) | frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))


def normalized(address: str) -> str:
    """The address as it is stored and shown. Text without "@" is only brought into NFC.

    Raises ValueError for an address with invisible characters: two such addresses look the same.
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
    """What is equal for two spellings of one address."""
    local, at, domain = address.rpartition("@")
    labels = [_in_unicode(label) for label in _lowered(domain).split(".")]
    return f"{_lowered(local)}{at}{'.'.join(labels)}"


def _labels(address: str) -> list[str]:
    """The labels of the domain that are in punycode, as they are shown."""
    labels = _lowered(address.rpartition("@")[2]).split(".")
    return [_in_unicode(label) for label in labels if label.startswith("xn--")]


def _has_invisible(text: str) -> bool:
    # Cf: zero-width characters, and those that change the direction of writing.
    return not text.isascii() and any(
        unicodedata.category(each) == "Cf" or each in _INVISIBLE for each in text
    )


def _lowered(text: str) -> str:
    # Lowering may undo NFKC, and NFKC may bring capital letters out of compatibility forms.
    text = unicodedata.normalize("NFKC", text.translate(_DOTS)).lower()
    text = text.replace("\u03c2", "\u03c3")  # a capital sigma becomes either, by its neighbours
    return unicodedata.normalize("NFKC", text)


def _in_unicode(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        return _lowered(label[4:].encode("ascii").decode("punycode"))
    except (UnicodeError, OverflowError):
        return label
