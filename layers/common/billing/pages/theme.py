"""The colours of the pages: one accent colour, made dark or light enough for readable text.

Contrast is that of WCAG 2.2: 4.5 to 1 for text.
"""

_ENOUGH = 4.7
_WHITE = (255, 255, 255)
_DARK_CARD = (22, 25, 32)
_DARK_INK = (20, 18, 30)

Colour = tuple[int, int, int]


def sheet(accent: str) -> str:
    """The style sheet that gives the pages this accent colour, such as `#0f766e`; "" for none."""
    if not accent:
        return ""
    wanted = _parsed(accent)
    on_light = _until_readable(wanted, _WHITE, towards=(0, 0, 0))
    on_dark = _until_readable(wanted, _DARK_CARD, towards=_WHITE)
    light = _tokens(
        on_light, _mixed(on_light, (0, 0, 0), 0.2), _WHITE, _mixed(on_light, _WHITE, 0.9)
    )
    dark = _tokens(
        on_dark, _mixed(on_dark, _WHITE, 0.2), _DARK_INK, _mixed(on_dark, _DARK_CARD, 0.8)
    )
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def contrast(one: Colour, other: Colour) -> float:
    """Returns the contrast of two colours: 1 to 21."""
    first, second = sorted((_luminance(one), _luminance(other)))
    return (second + 0.05) / (first + 0.05)


def _tokens(accent: Colour, hover: Colour, on_accent: Colour, tint: Colour) -> str:
    on_tint = _until_readable(accent, tint, towards=(0, 0, 0) if sum(tint) > 380 else _WHITE)
    named = {
        "accent": accent,
        "accent-2": hover,
        "on-accent": on_accent,
        "tint": tint,
        "on-tint": on_tint,
    }
    return ";".join(f"--{name}:#{r:02x}{g:02x}{b:02x}" for name, (r, g, b) in named.items())


def _parsed(text: str) -> Colour:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _until_readable(colour: Colour, ground: Colour, *, towards: Colour) -> Colour:
    found, share = colour, 0.0
    while contrast(found, ground) < _ENOUGH and share < 1:
        share += 0.05
        found = _mixed(colour, towards, share)
    return found


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (
        round(a + (b - a) * min(1.0, share)) for a, b in zip(colour, other, strict=True)
    )
    return red, green, blue


def _luminance(colour: Colour) -> float:
    red, green, blue = (
        c / 12.92 if (c := each / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for each in colour
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
