"""Usage and its cost as SVG: the chart of a period, meters, and the ruler of the cost.

In a chart, x is in per cent of the width and y in pixels, so that the text keeps its size from 320
to 1280 pixels. Only lines and areas stretch, in an SVG of their own. The content security policy
allows neither `style` nor scripts, so colours come from the classes in `app.css`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from html import escape

from markupsafe import Markup

from billing.http.projection import CostRange, Projection
from billing.http.shapes.dashboard import UsageReply
from billing.pages import formats

# From the top: the running total, then the bars of the days, then the names of the days.
_TOP, _HEIGHT, _BARS, _BASE, _DAYS = 14, 206, 58, 290, 306
_HEADROOM = Decimal("1.06")
# Labels are placed for the narrowest chart, that of a screen of 320 pixels.
_NARROW, _CHARACTER, _LINE = 250, 7.5, 15
_LONGEST = 11  # characters of a quantity in a label; longer ones are shortened
_HOVERED = 62  # days; with more of them, only the bars themselves show their quantity
_STEPS = (1, 2, 7, 14, 28, 91, 182)
_SAID = Context(prec=3)


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of a chart, with values in place of the braces. A translator passes other texts.

    `said`, `said_unlimited`, `likely` and `early` make the sentences that describe the chart.
    """

    title: str = "{name}, running total and by day"
    said: str = "{used} of {included} used by {day}."
    said_unlimited: str = "{used} used by {day}."
    likely: str = "At the pace of the last days the period ends between {low} and {high}."
    early: str = "It is too early to tell with what the period will end."
    included: str = "included: {quantity}"
    so_far: str = "so far"
    day: str = "{day}: {quantity}"


@dataclass(frozen=True, slots=True)
class CostWords:
    """The texts of a ruler. `range` is two amounts, `limit` an amount."""

    title: str = "Usage beyond the plan, and the spend limit"
    so_far: str = "{amount} so far"
    likely: str = "{range} likely"
    limit: str = "limit {amount}"


@dataclass(frozen=True, slots=True)
class Bar:
    """The parts of a feature's meter in per cent: where each begins, and how long it is."""

    used: Decimal
    over_at: Decimal
    over: Decimal
    held_at: Decimal
    held: Decimal


@dataclass(frozen=True, slots=True)
class Lengths:
    """The cost so far, the likely range and the limit, in per cent of a ruler's length."""

    so_far: Decimal
    low: Decimal
    high: Decimal
    limit: Decimal | None


def chart(
    usage: UsageReply,
    likely: Projection | None,
    now: datetime,
    *,
    prefix: str = "c",
    words: Words | None = None,
) -> Markup:
    """Returns the running total of a feature's period, and its days below, as SVG.

    `prefix` is the beginning of the ids, and differs between the charts of one page. Without
    `likely`, the chart ends today.
    """
    parts = _Chart(usage, likely, now, prefix, words or Words()).parts()
    return Markup("".join(parts))  # noqa: S704 - each text is escaped


def bar(usage: UsageReply) -> Bar | None:
    """The parts of the feature's meter. None for an unlimited feature, which has no meter."""
    if usage.included is None:
        return None
    used = Decimal(usage.used) + Decimal(usage.used_before)
    held, included = Decimal(usage.held), Decimal(usage.included)
    whole = max(used + held, included) or Decimal(1)
    within = _part(min(used, included), whole)
    over = _part(max(Decimal(0), used - included), whole)
    gap = min(over, Decimal("0.8") if within else Decimal(0))  # a gap that separates the two parts
    return Bar(within, within + gap, over - gap, within + over, _part(held, whole))


def meter(usage: UsageReply, said: str) -> Markup:
    """The feature's meter as SVG, described by `said`. Empty for an unlimited feature."""
    found = bar(usage)
    if found is None:
        return Markup()
    parts = [
        f'<svg class="bar" role="img" aria-label="{escape(said)}">',
        '<rect class="f-track" width="100%" height="100%"/>',
        *(
            f'<rect class="{fill}" x="{_p(x)}" width="{_p(width)}" height="100%"/>'
            for fill, x, width in (
                ("f-used", Decimal(0), found.used),
                ("f-over", found.over_at, found.over),
                ("f-held", found.held_at, found.held),
            )
            if width
        ),
        "</svg>",
    ]
    return Markup("".join(parts))  # noqa: S704 - `said` is escaped


def lengths(so_far: Decimal, likely: CostRange | None, limit: Decimal | None) -> Lengths:
    """Returns the parts of the ruler of the cost. `likely` and `limit` are None if there is
    none.
    """
    low, high = (likely.low, likely.high) if likely else (so_far, so_far)
    # The ruler continues a little beyond the limit. Without a limit it continues further, which
    # shows that there is none.
    more = Decimal("1.2") if limit is None else Decimal("1.02")
    whole = max(so_far, high, limit or Decimal(0)) * more or Decimal(1)
    return Lengths(
        _part(so_far, whole),
        _part(low, whole),
        _part(high, whole),
        None if limit is None else _part(limit, whole),
    )


def ruler(
    so_far: Decimal,
    likely: CostRange | None,
    limit: Decimal | None,
    currency: str,
    *,
    prefix: str = "r",
    words: CostWords | None = None,
) -> Markup:
    """Returns the cost so far, the likely range and the limit as SVG. `prefix` is that of
    `chart`.
    """
    words = words or CostWords()
    found = lengths(so_far, likely, limit)
    texts = [words.so_far.format(amount=formats.money(so_far, currency))]
    labels = [(_Label(texts[0], 0, 50), "")]
    shapes = ['<rect class="f-track" x="0" y="18" width="100%" height="14" rx="7"/>']
    if likely:
        between = formats.money_range(likely.low, likely.high, currency, capped=likely.capped)
        texts.append(words.likely.format(range=between))
        labels = [(each, "") for each in _under_ruler(texts[0], texts[1], found)]
        place = (
            f'x="{_p(found.low)}" y="18" width="{_p(found.high - found.low)}" height="14" rx="4"'
        )
        shapes += [f'<rect class="f-card" {place}/>', f'<rect class="f-band-over edge" {place}/>']
    shapes.append(
        f'<rect class="f-over" x="0" y="18" width="{_p(found.so_far)}" height="14" rx="4"/>'
    )
    if limit is not None and found.limit is not None:
        x = _p(found.limit)
        shapes.append(f'<line class="l-limit" x1="{x}" x2="{x}" y1="14" y2="40"/>')
        texts.append(words.limit.format(amount=formats.money(limit, currency)))
        at_end = found.limit >= 50
        labels.append((_Label(texts[-1], float(found.limit), 11, at_end), "strong"))
    name = escape(prefix)
    parts = [
        f'<svg class="ruler num" role="img" aria-labelledby="{name}-t {name}-d">',
        f'<title id="{name}-t">{escape(words.title)}</title>',
        f'<desc id="{name}-d">{escape(", ".join(texts))}.</desc>',
        *shapes,
        *(label.svg(classes) for label, classes in labels),
        "</svg>",
    ]
    return Markup("".join(parts))  # noqa: S704 - each text is escaped


def _part(value: Decimal, whole: Decimal) -> Decimal:
    return round(max(Decimal(0), value) / whole * 100, 2)


@dataclass(frozen=True, slots=True)
class _Day:
    """A day of the period: where it begins and ends in per cent, and what was used on it."""

    date: date
    begins: float
    ends: float
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class _Label:
    """A text and where it stands: from `x` on, or up to `x` where it is anchored at its end."""

    text: str
    x: float
    y: float
    at_end: bool = False
    tail: str = ""  # shown on wide screens only

    def meets(self, other: "_Label") -> bool:
        """Whether the two would overlap on the narrowest screen."""
        (a, b), (c, d) = self.sides(), other.sides()
        return a < d and c < b and abs(self.y - other.y) < _LINE

    def sides(self) -> tuple[float, float]:
        x, width = self.x * _NARROW / 100, len(self.text) * _CHARACTER
        return (x - width, x) if self.at_end else (x, x + width)

    def svg(self, classes: str) -> str:
        named = " ".join(filter(None, ("a-end" if self.at_end else "", classes)))
        tail = f'<tspan class="wide"> {escape(self.tail)}</tspan>' if self.tail else ""
        place = f'x="{_n(self.x)}%" y="{_n(self.y)}"'
        return f'<text class="{named}" {place}>{escape(self.text)}{tail}</text>'


def _under_ruler(so_far: str, likely: str, found: Lengths) -> list[_Label]:
    """The two texts below the ruler: each at its place, or one after the other at the start."""
    first = _Label(so_far, 0, 50)
    if found.high >= 50:
        second = _Label(likely, float(found.high), 50, at_end=True)
    else:
        second = _Label(likely, float(found.low), 50)
    if not second.meets(first):
        return [first, second]
    together = _Label(f"{so_far} · {likely}", 0, 50)
    if together.sides()[1] <= _NARROW:
        return [together]
    return [first, _Label(likely, 100, 50, at_end=True)]


class _Chart:
    def __init__(
        self,
        usage: UsageReply,
        likely: Projection | None,
        now: datetime,
        prefix: str,
        words: Words,
    ) -> None:
        self.usage = usage
        self.words = words
        self.prefix = escape(prefix)
        self.start, self.end = usage.period.start.astimezone(UTC), usage.period.end.astimezone(UTC)
        self.now = min(max(now.astimezone(UTC), self.start), self.end)
        self.likely = likely if self.now < self.end else None
        self.used = Decimal(usage.used)
        self.included = None if usage.included is None else Decimal(usage.included)
        highest = max(self.used, self.included or 0, self.likely.high if self.likely else 0)
        self.highest = highest * _HEADROOM or Decimal(1)
        self.has_scale = highest > 0
        self.days = list(self._days())
        self.line = list(self._line())

    def x(self, moment: datetime) -> float:
        """The place of a moment, in per cent."""
        return min(100.0, max(0.0, (moment - self.start) / (self.end - self.start) * 100))

    def y(self, quantity: Decimal) -> float:
        """The place of a quantity, in pixels from the top."""
        return _TOP + _HEIGHT * (1 - float(max(Decimal(0), quantity) / self.highest))

    def _days(self) -> Iterator[_Day]:
        """Yields the days of the period that have begun. Usage with a later date counts today."""
        today = self.now.date() if self.now < self.end else (self.end - _MOMENT).date()
        quantities: dict[date, Decimal] = {}
        for day in self.usage.daily:
            on = min(max(day.date, self.start.date()), today)
            quantities[on] = quantities.get(on, Decimal(0)) + Decimal(day.quantity)
        for n in range((today - self.start.date()).days + 1):
            on = self.start.date() + timedelta(days=n)
            begins = datetime.combine(on, time(), UTC)
            ends = begins + timedelta(days=1)
            yield _Day(on, self.x(begins), self.x(ends), quantities.get(on, Decimal(0)))

    def _line(self) -> Iterator[tuple[float, float]]:
        """Yields the running total. It begins with the usage that was carried from earlier
        periods.
        """
        total = Decimal(self.usage.carried)
        yield 0.0, self.y(total)
        for day in self.days:
            total += day.quantity
            yield min(day.ends, self.x(self.now)), self.y(total)

    def parts(self) -> Iterator[str]:
        """The SVG, in pieces."""
        prefix = self.prefix
        title = self.words.title.format(name=self.usage.name)
        yield (
            f'<svg class="chart" role="img" aria-labelledby="{prefix}-t {prefix}-d">'
            f'<title id="{prefix}-t">{escape(title)}</title>'
            f'<desc id="{prefix}-d">{escape(self._said())}</desc>'
        )
        labels = self._labels()
        for value in self._grid():
            label = _Label(_short(value), 0, self.y(value) - 5)
            if not any(label.meets(other) for other, _ in labels):
                yield _across("l-grid", self.y(value)) + label.svg("halo")
        yield _across("l-base", self.y(Decimal(0)))
        yield from self._areas()
        if self.included:
            yield _across("l-limit", self.y(self.included))
        x, y = self.line[-1]
        yield (f'<line class="l-now" x1="{_n(x)}%" x2="{_n(x)}%" y1="{_n(y)}" y2="{_BASE}"/>')
        yield from self._bars()
        for label, classes in labels:
            yield label.svg(classes)
        yield _across("l-base", _BASE)
        yield from self._names()
        yield "</svg>"

    def _said(self) -> str:
        """Returns a text that describes the chart."""
        known = {
            "used": formats.quantity(self.used),
            "day": formats.day(self.now, self.now),
        }
        if self.included is None:
            said = self.words.said_unlimited.format_map(
                known | {"used": self._with_unit(formats.quantity(self.used))}
            )
        else:
            included = self._with_unit(formats.quantity(self.included))
            said = self.words.said.format_map(known | {"included": included})
        if self.now >= self.end:
            return said
        if self.likely is None:
            return f"{said} {self.words.early}"
        low, high = (
            formats.quantity(_SAID.plus(each)) for each in (self.likely.low, self.likely.high)
        )
        return f"{said} {self.words.likely.format(low=low, high=self._with_unit(high))}"

    def _with_unit(self, text: str) -> str:
        unit = formats.unit_beside(self.usage.unit, self.usage.name)
        return f"{text} {unit}" if unit else text

    def _labels(self) -> Sequence[tuple[_Label, str]]:
        """Returns the labels in the upper part, without overlaps if possible."""
        placed: list[tuple[_Label, str]] = []
        if self.likely:
            text = formats.short_range(self.likely.low, self.likely.high)
            placed.append(
                (_Label(text, 100, self.y(self.likely.high) - 7, at_end=True), "strong halo")
            )
        x, y = self.line[-1]
        beside = (x - 1, True) if x >= 50 else (x + 1, False)
        text = _short(self.used)
        # The likely range leaves the point to the right and upwards: there, the label is below it.
        is_low = y + 18 > _TOP + _HEIGHT
        moves = (-8, 18, -24, 34) if beside[1] or is_low or not self.likely else (18, 34, -8, -24)
        so_far = [
            _Label(text, place, max(_TOP, y + move), at_end, self.words.so_far)
            for place, at_end in (beside,)
            for move in moves
        ]
        placed.append((_free(so_far, placed), "strong halo"))
        if self.included:
            text = self.words.included.format(quantity=_short(self.included))
            line = self.y(self.included)
            included = [
                _Label(text, place, max(_TOP, line + move), at_end)
                for moves in ((-6, 15), (-20, 29))  # next to the line, else a little farther
                for place, at_end in ((0, False), (100, True))
                for move in moves
            ]
            placed.append((_free(included, placed), "strong halo"))
        return placed

    def _grid(self) -> Iterator[Decimal]:
        """Yields one or two round quantities as a scale, not too close to the line of the
        included quantity.
        """
        if not self.has_scale:
            return
        half = self.highest / 2
        power = Decimal(1).scaleb(half.adjusted())
        step = max(power * n for n in (1, 2, 5) if power * n <= half)
        for value in (step, step * 2):
            away = not self.included or abs(self.y(value) - self.y(self.included)) > _LINE
            if away and value * _HEADROOM < self.highest:
                yield value

    def _areas(self) -> Iterator[str]:
        """Yields the parts that stretch with the width. Strokes keep their width
        (`vector-effect`).
        """
        height = _TOP + _HEIGHT
        yield (
            f'<svg x="0" y="0" width="100%" height="{height}" viewBox="0 0 100 {height}"'
            ' preserveAspectRatio="none">'
        )
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in self.line)
        x, y = self.line[-1]
        floor = _n(self.y(Decimal(0)))
        yield f'<polygon class="f-area" points="0,{floor} {path} {_n(x)},{floor}"/>'
        if self.likely:
            low, mid, high = (
                _n(self.y(each)) for each in (self.likely.low, self.likely.mid, self.likely.high)
            )
            here = f"{_n(x)},{_n(y)}"
            yield from self._band(f"{here} 100,{low} 100,{high}")
            for edge in (low, high):
                yield f'<polyline class="l-low" points="{here} 100,{edge}"/>'
            yield f'<polyline class="l-mid" points="{here} 100,{mid}"/>'
        yield f'<polyline class="l-used" points="{path}"/></svg>'

    def _band(self, points: str) -> Iterator[str]:
        """Yields the likely range, split at the included quantity."""
        if self.included is None:
            yield f'<polygon class="f-band" points="{points}"/>'
            return
        line, prefix = self.y(self.included), self.prefix
        for name, top, height, fill in (
            ("in", line, _TOP + _HEIGHT - line, "f-band"),
            ("out", 0, line, "f-band-over"),
        ):
            yield (
                f'<clipPath id="{prefix}-{name}"><rect x="0" y="{_n(top)}" width="100"'
                f' height="{_n(height)}"/></clipPath>'
                f'<polygon class="{fill}" clip-path="url(#{prefix}-{name})" points="{points}"/>'
            )

    def _bars(self) -> Iterator[str]:
        most = max((day.quantity for day in self.days), default=Decimal(0))
        for day in self.days:
            tall = _n(float(max(Decimal(0), day.quantity) / most) * _BARS) if most > 0 else "0"
            width = day.ends - day.begins
            gap = min(0.35, width / 8)
            running = day is self.days[-1] and self.now < self.end
            quantity = self._with_unit(formats.quantity(day.quantity))
            told = self.words.day.format(day=formats.day(day.date, self.now), quantity=quantity)
            title = f"<title>{escape(told)}</title>"
            hovered = len(self.days) <= _HOVERED
            yield (
                f'<rect class="{"f-part" if running else "f-used"}" x="{_n(day.begins + gap)}%"'
                f' y="{_n(_BASE - float(tall))}" width="{_n(width - 2 * gap)}%" height="{tall}"'
                f' rx="{1.5 if hovered else 0}"' + ("/>" if hovered else f">{title}</rect>")
            )
            if hovered:
                yield (
                    f'<rect class="hit" x="{_n(day.begins)}%" y="{_TOP}" width="{_n(width)}%"'
                    f' height="{_BASE - _TOP}">{title}</rect>'
                )

    def _names(self) -> Iterator[str]:
        """Yields the names of some days: on narrow screens of every other one, and of the first
        and last.
        """
        first, last = self.start.date(), self.end.date()
        length = (last - first).days
        step = next((each for each in _STEPS if length <= 5 * each), _STEPS[-1])
        for n, passed in enumerate(range(0, length, step)):
            day = first + timedelta(days=passed)
            x = self.x(datetime.combine(day, time(), UTC))
            if n and x > 84:
                break
            wide = "wide" if n % 2 or x > 62 else ""
            yield _Label(formats.short_day(day, day), x, _DAYS).svg(wide)
        yield _Label(formats.short_day(last, last), 100, _DAYS, at_end=True).svg("")


_MOMENT = timedelta(microseconds=1)


def _free(candidates: Sequence[_Label], placed: Sequence[tuple[_Label, str]]) -> _Label:
    """Returns the first candidate that overlaps no label; if all overlap, the first candidate."""
    free = (c for c in candidates if not any(c.meets(other) for other, _ in placed))
    return next(free, candidates[0])


def _short(quantity: Decimal) -> str:
    text = formats.quantity(quantity)
    return text if len(text) <= _LONGEST else formats.short_quantity(quantity)


def _across(kind: str, y: float) -> str:
    return f'<line class="{kind}" x1="0" x2="100%" y1="{_n(y)}" y2="{_n(y)}"/>'


def _p(value: Decimal) -> str:
    return f"{value.normalize():f}%"


def _n(value: float) -> str:
    """A coordinate with at most three decimals."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
