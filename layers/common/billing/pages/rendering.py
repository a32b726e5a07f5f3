"""Renders templates. `Frame` lists the values that every template gets."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from billing.pages import chart, formats, theme
from billing.pages.assets import Assets
from billing.pages.words import Words

FILTERS: Mapping[str, Callable[..., Any]] = {
    "money": formats.money,
    "money_range": formats.money_range,
    "price": formats.price,
    "unit_price": formats.unit_price,
    "quantity": formats.quantity,
    "beside": formats.unit_beside,
    "day": formats.day,
    "short_day": formats.short_day,
    "moment": formats.moment,
    "interval": formats.interval,
    "number": Decimal,
    "meter": chart.meter,
}


class Frame:
    """The templates, words and files of a folder. Reads each once, when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = Environment(
            loader=FileSystemLoader(folder / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(FILTERS)
        self.words: Callable[[str], Words] = cache(self._words)
        self.assets: Callable[[str], Assets] = cache(self._assets)

    def render(self, template: str, *, language: str, accent: str, **values: Any) -> str:
        """The page. `values` are escaped where the template puts them."""
        return self._environment.get_template(template).render(
            w=self.words(language),
            language=language,
            asset=self.assets(accent).address,
            **values,
        )

    def _words(self, language: str) -> Words:
        return Words(self._folder / "words" / language)

    def _assets(self, accent: str) -> Assets:
        return Assets(self._folder / "assets", theme.sheet(accent))
