"""Any accent colour can be read, on light and on dark."""

import re

from hypothesis import given
from hypothesis import strategies as st

from billing.pages import theme

colours = st.tuples(*[st.integers(0, 255)] * 3).map(lambda rgb: "#{:02x}{:02x}{:02x}".format(*rgb))
WHITE, DARK_CARD = (255, 255, 255), (22, 25, 32)


@given(colours)
def test_text_in_the_accent_and_on_it_is_readable(accent: str) -> None:
    light, dark = _tokens(theme.sheet(accent))
    for tokens, card in ((light, WHITE), (dark, DARK_CARD)):
        assert theme.contrast(tokens["accent"], card) >= 4.5
        assert theme.contrast(tokens["on-accent"], tokens["accent"]) >= 4.5
        assert theme.contrast(tokens["on-accent"], tokens["accent-2"]) >= 4.5
        assert theme.contrast(tokens["on-tint"], tokens["tint"]) >= 4.5


def test_without_an_accent_the_style_sheet_stays_as_it_is() -> None:
    assert theme.sheet("") == ""


def test_contrast_is_that_of_wcag() -> None:
    assert round(theme.contrast((0, 0, 0), WHITE), 2) == 21
    assert round(theme.contrast((118, 118, 118), WHITE), 2) == 4.54


def _tokens(sheet: str) -> tuple[dict[str, theme.Colour], dict[str, theme.Colour]]:
    light, dark = (
        {
            name: (int(hexa[:2], 16), int(hexa[2:4], 16), int(hexa[4:], 16))
            for name, hexa in re.findall(r"--([a-z0-9-]+):#([0-9a-f]{6})", part)
        }
        for part in sheet.split("@media")
    )
    return light, dark
