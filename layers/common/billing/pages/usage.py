"""The page about usage: by day, by the values of a property, entry by entry, and as CSV."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from aws_lambda_powertools.event_handler import Response

from billing import wiring
from billing.errors import InvalidRequest
from billing.field_types import FEATURE_PATTERN, GROUP_BY_PATTERN
from billing.http import dashboard_answers, usage_answers, usage_sums
from billing.http.shapes.dashboard import UsageReply
from billing.http.shapes.ledger import UsageSum
from billing.pages import formats, next_part, outlook, site
from billing.pages.site import app, word
from billing.usage import ledger

USAGE = "/app/usage"
MOST_ROWS = 1000
# How many values of a property have a column of their own. One further column has the others.
MOST_COLUMNS = 5
_ENTRIES = 100
_CSV_ROWS = 50_000
_LONGEST_PERIOD = timedelta(days=31)


@dataclass(frozen=True, slots=True)
class Asked:
    """The selection of the page: a feature or all, the UTC days in [since, until), and a
    property.
    """

    feature: str
    since: date
    until: date
    prop: str

    def query(self, **changed: str) -> str:
        """Returns the address's parameters for the same selection, with some changes."""
        asked = {
            "feature": self.feature,
            "from": self.since.isoformat(),
            "to": (self.until - timedelta(days=1)).isoformat(),
            "by": self.prop,
        }
        return urlencode({name: value for name, value in (asked | changed).items() if value})


@dataclass(frozen=True, slots=True)
class Line:
    """One day's sum of a feature in a period. `total` counts from the first shown day."""

    day: date
    feature: str
    quantity: Decimal
    late: Decimal
    corrected: Decimal
    total: Decimal


@dataclass(frozen=True, slots=True)
class PivotLine:
    """One day's sums in a period. `total` counts from the first shown day of the period."""

    day: date
    by_value: Sequence[Decimal]
    others: Decimal
    quantity: Decimal
    late: Decimal
    corrected: Decimal
    total: Decimal


@dataclass(frozen=True, slots=True)
class Pivot:
    """Sums by day and value: a column for each value, None for usage without the property."""

    values: Sequence[str | None]
    has_others: bool
    lines: Sequence[PivotLine]


@app.get(USAGE)
@site.members
def show_usage() -> Response[Any]:
    """Shows usage day by day, with a column for each value of a property if one is named."""
    user = site.user()
    features = dashboard_answers.dashboard(app, user).usage
    asked, wrong = _asked(features)
    found = usage_sums.page(
        user.id,
        usage_sums.Asked(
            f"day,property.{asked.prop}" if asked.prop else "day",
            asked.feature or None,
            asked.since,
            asked.until,
            None,
            MOST_ROWS,
            None,
        ),
    )
    return site.page(
        "usage.html",
        status=422 if wrong else 200,
        title=word("usage.title"),
        banner=outlook.trouble(),
        now=wiring.now(),
        asked=asked,
        values=_typed(asked),
        wrong=wrong,
        features=features,
        units={each.feature: formats.unit_beside(each.unit, each.name) for each in features},
        names={each.feature: each.name for each in features},
        ranges=_ranges(features, asked),
        lines=[] if asked.prop else list(_lines(found.sums)),
        pivot=pivot(found.sums) if asked.prop and found.sums else None,
        is_cut=found.next_cursor is not None,
    )


@app.get("/app/usage.csv")
@site.members
def download_usage() -> Response[Any]:
    """Sends the sums of `show_usage` as a file for spreadsheets."""
    answer, _ = _file()
    answer.headers["Cache-Control"] = "no-store"
    return answer


@app.get("/app/usage/next")
@site.members
def show_next_part() -> Response[Any]:
    """Leads to the part of the file that follows the one at the cursor in the address."""
    answer, asked = _file()
    link = re.match("<([^>]*)>", str(answer.headers.get("Link", "")))
    following = parse_qs(urlsplit(link[1]).query)["cursor"][0] if link else None
    parameters = asked.query()
    return next_part.page(
        download=f"{USAGE}.csv?{parameters}&cursor=",
        after=f"{USAGE}/next?{parameters}&cursor=",
        back=f"{USAGE}?{parameters}",
        cursor=following,
    )


def _file() -> tuple[Response[Any], Asked]:
    """Returns the part of the file at the cursor in the address. Its header `Link` has the next."""
    user = site.user()
    asked, wrong = _asked(dashboard_answers.dashboard(app, user).usage)
    if wrong:
        raise InvalidRequest
    grouped = f"day,property.{asked.prop}" if asked.prop else "day"
    wanted = usage_sums.Asked(
        grouped,
        asked.feature or None,
        asked.since,
        asked.until,
        site.query("cursor") or None,
        _CSV_ROWS,
        "csv",
    )
    return usage_sums.answer(app, user.id, wanted), asked


@app.get("/app/usage/entries")
@site.members
def show_entries() -> Response[Any]:
    """The single entries of the ledger, in the order of booking."""
    user = site.user()
    features = dashboard_answers.dashboard(app, user).usage
    asked, wrong = _asked(features)
    query = ledger.Query(
        user_id=user.id,
        feature=asked.feature or None,
        since=_midnight(asked.since),
        until=_midnight(asked.until),
    )
    found = ledger.page(
        wiring.database(),
        query,
        cursor=site.query("cursor") or None,
        limit=_ENTRIES,
        now=wiring.now(),
    )
    return site.page(
        "entries.html",
        status=422 if wrong else 200,
        title=word("usage.entries_title"),
        banner=outlook.trouble(),
        now=wiring.now(),
        asked=asked,
        names={each.feature: each.name for each in features},
        units={each.feature: formats.unit_beside(each.unit, each.name) for each in features},
        entries=[usage_answers.entry(each) for each in found.entries],
        more=asked.query(cursor=found.next_cursor) if found.next_cursor else "",
    )


def pivot(sums: Sequence[UsageSum]) -> Pivot:
    """Returns the sums of one feature as a table: columns for the most used values, and a row for
    each day. A day on which the period changed has two.
    """
    by_value: dict[str | None, Decimal] = defaultdict(Decimal)
    by_day: dict[tuple[date, datetime, str], list[UsageSum]] = defaultdict(list)
    for each in sums:
        by_value[each.value] += Decimal(each.quantity)
        if each.day is not None:
            by_day[each.day, each.period.start, each.period.id].append(each)
    ranked = sorted(by_value, key=lambda value: (-by_value[value], value or ""))
    shown, others = ranked[:MOST_COLUMNS], ranked[MOST_COLUMNS:]
    totals: dict[str, Decimal] = defaultdict(Decimal)
    lines = []
    for (day, _, period), found in sorted(by_day.items()):
        quantities = {each.value: Decimal(each.quantity) for each in found}
        quantity = sum(quantities.values(), Decimal(0))
        totals[period] += quantity
        lines.append(
            PivotLine(
                day,
                [quantities.get(value, Decimal(0)) for value in shown],
                sum((quantities.get(value, Decimal(0)) for value in others), Decimal(0)),
                quantity,
                sum((Decimal(each.late) for each in found), Decimal(0)),
                sum((Decimal(each.corrected) for each in found), Decimal(0)),
                totals[period],
            )
        )
    return Pivot(shown, bool(others), lines)


def _lines(sums: Sequence[UsageSum]) -> Iterator[Line]:
    totals: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for each in sums:
        if each.day is None:
            continue
        quantity = Decimal(each.quantity)
        of = (each.period.id, each.feature)
        totals[of] += quantity
        yield Line(
            each.day,
            each.feature,
            quantity,
            Decimal(each.late),
            Decimal(each.corrected),
            totals[of],
        )


def _asked(features: Sequence[UsageReply]) -> tuple[Asked, dict[str, str]]:
    """Returns the selection in the address, by default the running period, and its errors."""
    wrong: dict[str, str] = {}
    feature = site.query("feature")
    if feature and not re.fullmatch(FEATURE_PATTERN, feature):
        feature, wrong["feature"] = "", word("fields.string_pattern_mismatch")
    prop = site.query("by").strip()
    if prop and not re.fullmatch(GROUP_BY_PATTERN, f"property.{prop}"):
        prop, wrong["by"] = "", word("usage.no_property")
    if prop and not feature and features:
        # A column for a value cannot add up gigabytes and calls: the first feature that was used.
        used = (each.feature for each in features if Decimal(each.used))
        feature = next(used, features[0].feature)
    today = wiring.now().astimezone(UTC).date()
    first, last = today.replace(day=1), today
    of = [each for each in features if each.feature == feature] or list(features)
    if of:
        first = of[0].period.start.astimezone(UTC).date()
    since = _day("from", first, wrong)
    until = _day("to", max(last, since), wrong)
    if until < since:
        wrong["to"] = word("usage.backwards")
        until = since
    return Asked(feature, since, until + timedelta(days=1), prop), wrong


def _day(name: str, otherwise: date, wrong: dict[str, str]) -> date:
    text = site.query(name)
    if not text:
        return otherwise
    try:
        found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        wrong[name] = word("usage.no_day")
        return otherwise
    return min(max(found, date(2000, 1, 1)), date(9000, 1, 1))


def _typed(asked: Asked) -> dict[str, str]:
    """The values of the form."""
    return {
        "from": site.query("from") or asked.since.isoformat(),
        "to": site.query("to") or (asked.until - timedelta(days=1)).isoformat(),
        "by": site.query("by"),
    }


def _ranges(features: Sequence[UsageReply], asked: Asked) -> list[tuple[str, str, bool]]:
    """Links to ranges of days: their word, their parameters, and whether they are shown now."""
    today = wiring.now().astimezone(UTC).date()
    ranges = [
        ("last_7", today - timedelta(days=6), today),
        ("last_30", today - timedelta(days=29), today),
    ]
    if features:
        start = features[0].period.start.astimezone(UTC).date()
        ranges.insert(0, ("this_period", start, today))
    if before := _period_before(asked):
        ranges.append(("period_before", *before))
    found = []
    for name, since, until in ranges:
        parameters = asked.query(**{"from": since.isoformat(), "to": until.isoformat()})
        is_shown = (since, until) == (asked.since, asked.until - timedelta(days=1))
        found.append((name, parameters, is_shown))
    return found


def _period_before(asked: Asked) -> tuple[date, date] | None:
    """Returns the first and last day of the newest period with usage that ended before the days
    of the page; None if there is none in the last two months before them.
    """
    since = asked.since - _LONGEST_PERIOD * 2
    wanted = usage_sums.Asked(
        "day", asked.feature or None, since, asked.since, None, MOST_ROWS, None
    )
    periods = [each.period for each in usage_sums.page(site.user().id, wanted).sums]
    ended = [each for each in periods if each.end <= _midnight(asked.since + timedelta(days=1))]
    if not ended:
        return None
    newest = max(ended, key=lambda each: each.end)
    last = newest.end.astimezone(UTC) - timedelta(microseconds=1)
    return newest.start.astimezone(UTC).date(), last.date()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
