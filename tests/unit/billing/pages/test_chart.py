"""Pictures of usage and its cost: charts, meters and rulers as SVG."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billing.http.projection import CostRange, project
from billing.http.shapes.dashboard import UsageReply
from billing.pages.chart import (
    Bar,
    CostWords,
    Lengths,
    Words,
    bar,
    chart,
    lengths,
    meter,
    ruler,
)
from billing.pages.formats import NO_BREAK, RANGE
from tests.unit.billing.pages.replies import END, START, after, usage

SHEET = Path(__file__).parents[4] / "functions" / "pages" / "assets" / "app.css"
ATTRIBUTES = {
    *("class", "role", "aria-label", "aria-labelledby", "id", "x", "y", "x1", "x2", "y1", "y2"),
    *("width", "height", "rx", "viewBox", "preserveAspectRatio", "points", "clip-path"),
}
NARROW = 250  # pixels of a chart on a screen of 320
EVIL = """<script>alert("1")</script>' onload='x' style="color:red"&amp;"""


def drawn(reply: UsageReply, now: datetime, prefix: str = "c") -> ET.Element:
    """The chart, read as XML."""
    return ET.fromstring(chart(reply, project(reply, now), now, prefix=prefix))  # noqa: S314 - ours


def of_class(svg: ET.Element, name: str) -> list[ET.Element]:
    """The elements with the class."""
    return [each for each in svg.iter() if name in each.get("class", "").split()]


def texts(svg: ET.Element, name: str | None = None) -> list[str]:
    """The texts in the picture, in their order; with a class, only those that have it."""
    found = svg.iter("text") if name is None else of_class(svg, name)
    return ["".join(each.itertext()).replace(NO_BREAK, " ") for each in found if each.tag == "text"]


def said(svg: ET.Element) -> str:
    """The sentence that describes the picture."""
    return svg.findtext("desc", "").replace(NO_BREAK, " ")


def number(each: ET.Element, name: str) -> float:
    return float(each.get(name, "0").removesuffix("%"))


def sides(text: ET.Element) -> tuple[float, float]:
    """From where to where the text goes on the narrowest screen, in pixels."""
    x, width = number(text, "x") * NARROW / 100, len(text.text or "") * 7.5
    return (x - width, x) if "a-end" in text.get("class", "") else (x, x + width)


def apart(labels: Sequence[ET.Element]) -> bool:
    """Whether no two of the texts are on top of each other."""
    boxes = [(*sides(each), number(each, "y")) for each in labels]
    return not any(
        a[0] < b[1] and b[0] < a[1] and abs(a[2] - b[2]) < 12
        for n, a in enumerate(boxes)
        for b in boxes[:n]
    )


class TestChart:
    def test_what_a_person_would_say(self) -> None:
        """The description has the numbers of the picture, the likely ones in three digits."""
        svg = drawn(usage([12345] * 10, included=300_000), after(10))
        assert svg.findtext("title") == "Storage, running total and by day"
        assert said(svg) == (
            "123,450 of 300,000 GB used by 11 November."
            " At the pace of the last days the period ends between 321,000 and 420,000 GB."
        )
        assert svg.get("role") == "img"
        assert svg.get("aria-labelledby") == "c-t c-d"

    def test_labels_stand_at_what_they_name(self) -> None:
        """What is included, what is used, and what is likely are written in the picture."""
        svg = drawn(usage([12345] * 10, included=300_000), after(10))
        assert texts(svg, "strong") == [
            f"321k{RANGE}420k",
            "123,450 so far",
            "included: 300,000",
        ]

    def test_what_is_used_is_written_where_there_is_room(self) -> None:
        """In the first half of the period the label stands to the right, later to the left."""
        for complete, classes in ((13, "strong halo"), (16, "a-end strong halo")):
            svg = drawn(usage([10] * complete, included=9999), after(complete))
            [label] = [each for each in svg.iter("text") if "so far" in "".join(each.itertext())]
            assert label.get("class") == classes

    @pytest.mark.parametrize(
        ("daily", "included", "grid"),
        [
            *(([0, 100], 1000, ["500"]), ([0, 240], None, ["100", "200"])),
            *(([0, 300], 250, ["100", "200"]), ([0, 300], 210, ["100"])),
            *(([49_500] * 20, 1_000_000, ["500,000"]), ([100] + [0] * 19, None, ["50"])),
        ],
    )
    def test_round_quantities_to_measure_by(
        self, daily: list[int], included: int | None, grid: list[str]
    ) -> None:
        """One or two round quantities below the top are written, none beside what is included."""
        svg = drawn(usage(daily, included=included), after(len(daily)))
        assert [each.text for each in svg.iter("text") if each.get("class") == "halo"] == grid
        assert len(of_class(svg, "l-grid")) == len(grid)

    def test_in_a_long_period_bars_tell_their_quantity(self) -> None:
        """With many days there is no room beside the bars to point at."""
        reply = usage([10] * 70, end=START + timedelta(days=100))
        svg = drawn(reply, after(70))
        assert not of_class(svg, "hit")
        assert (
            of_class(svg, "f-used")[0].findtext("title")
            == f"1{NO_BREAK}November{NO_BREAK}2026: 10 GB"
        )

    def test_the_line_is_the_running_total(self) -> None:
        """The line begins with what was carried over, and ends now at what is used."""
        svg = drawn(usage([100, 0, 50], carried=250, included=400), after(2, hours=12))
        [line] = of_class(svg, "l-used")
        points = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
        scale = 206 / (400 * 1.06)
        expected = [(0, 250), (100 / 30, 350), (200 / 30, 350), (250 / 30, 400)]
        assert points == [pytest.approx((x, 220 - y * scale), abs=0.001) for x, y in expected]

    def test_a_bar_for_each_day_and_a_lighter_one_for_today(self) -> None:
        """The tallest day has the whole height, and each day says its quantity."""
        svg = drawn(usage([10, 0, 40, 20]), after(3, hours=6))
        bars = of_class(svg, "f-used") + of_class(svg, "f-part")
        assert [number(each, "height") for each in bars] == [14.5, 0, 58, 29]
        assert len(of_class(svg, "f-part")) == 1
        told = [each.findtext("title", "").replace(NO_BREAK, " ") for each in of_class(svg, "hit")]
        assert told == [
            "1 November: 10 GB",
            "2 November: 0 GB",
            "3 November: 40 GB",
            "4 November: 20 GB",
        ]

    def test_what_is_dated_tomorrow_is_shown_today(self) -> None:
        """A clock that is five minutes ahead makes no day that has not begun."""
        svg = drawn(usage([10, 10, 5]), after(2) - timedelta(minutes=3))
        assert len(of_class(svg, "hit")) == 2
        assert "25 so far" in texts(svg)
        assert of_class(svg, "hit")[-1].findtext("title", "").endswith("15 GB")

    def test_a_day_on_which_more_was_taken_off(self) -> None:
        """A day below zero has no bar, and the total falls."""
        svg = drawn(usage([50, -20]), after(2, hours=1))
        assert [number(each, "height") for each in of_class(svg, "f-used")] == [58, 0]
        assert "30 so far" in texts(svg)

    def test_the_likely_range_is_parted_where_the_plan_ends(self) -> None:
        """Below the line of what is included the range has one colour, above it another."""
        svg = drawn(usage([10] * 10, included=280), after(10))
        [limit] = of_class(svg, "l-limit")
        line = number(limit, "y1")
        clips = [
            (clip.get("id"), number(clip[0], "y"), number(clip[0], "height"))
            for clip in svg.iter("clipPath")
        ]
        assert clips == [("c-in", line, round(220 - line, 3)), ("c-out", 0, line)]
        assert of_class(svg, "f-band")[0].get("clip-path") == "url(#c-in)"
        assert of_class(svg, "f-band-over")[0].get("clip-path") == "url(#c-out)"

    def test_unlimited(self) -> None:
        """Without a limit there is no line, and nothing is beyond the plan."""
        svg = drawn(usage([10] * 10, included=None), after(10))
        assert not of_class(svg, "l-limit")
        assert not of_class(svg, "f-band-over")
        assert len(of_class(svg, "f-band")) == 1
        assert said(svg).startswith("100 GB used by 11 November. At the pace")

    def test_nothing_included(self) -> None:
        """Where each unit is billed there is no line, and the whole range is beyond the plan."""
        svg = drawn(usage([10] * 10, included=0), after(10))
        assert not of_class(svg, "l-limit")
        assert [number(clip[0], "height") for clip in svg.iter("clipPath")] == [0, 220]

    def test_too_early(self) -> None:
        """In the first week the picture ends today, and its description says why."""
        svg = drawn(usage([10] * 3), after(3))
        assert not of_class(svg, "f-band")
        assert not of_class(svg, "l-mid")
        assert said(svg).endswith("It is too early to tell with what the period will end.")

    def test_over(self) -> None:
        """After the period nothing is likely, no day runs, and the line goes to the end."""
        svg = drawn(usage([10] * 30), END + timedelta(days=3))
        assert not of_class(svg, "f-band")
        assert not of_class(svg, "f-part")
        assert len(of_class(svg, "f-used")) == 30
        assert of_class(svg, "l-now")[0].get("x1") == "100%"
        assert said(svg) == "300 of 1,000 GB used by 1 December."

    def test_nothing_used(self) -> None:
        """An empty period is drawn, with one line to measure by."""
        svg = drawn(usage([], included=1000), after(0, hours=1))
        assert texts(svg, "strong") == ["0 so far", "included: 1,000"]
        assert len(of_class(svg, "l-grid")) == 1
        assert not of_class(drawn(usage([], included=None), after(0)), "l-grid")

    @pytest.mark.parametrize(
        ("length", "narrow", "wide"),
        [
            (1, ["1 Nov", "2 Nov"], []),
            (7, ["1 Nov", "5 Nov", "8 Nov"], ["3 Nov"]),
            (30, ["1 Nov", "15 Nov", "1 Dec"], ["8 Nov", "22 Nov"]),
            (366, ["1 Nov", "2 May", "2 Nov"], ["31 Jan", "1 Aug"]),
        ],
    )
    def test_few_days_are_named(self, length: int, narrow: list[str], wide: list[str]) -> None:
        """However long the period is, its first and last day are named and some between."""
        svg = drawn(usage([1], end=START + timedelta(days=length)), after(0, hours=5))
        names = [each for each in svg.iter("text") if each.get("y") == "306"]
        shown = [(each.text or "").replace(NO_BREAK, " ") for each in names]
        assert [n for n in shown if n not in wide] == narrow
        assert [n.replace(NO_BREAK, " ") for n in texts(svg, "wide")] == wide

    def test_long_quantities_are_shortened_in_the_picture_only(self) -> None:
        """15 digits do not fit into a label; the description has them."""
        svg = drawn(usage([123456789012345], included=999_999_999_999_999), after(0, hours=5))
        assert texts(svg, "strong") == ["123T so far", "included: 1,000T"]
        assert said(svg).startswith("123,456,789,012,345 of 999,999,999,999,999 GB")

    def test_other_words(self) -> None:
        """All texts can be another language's."""
        words = Words(
            title="{name}: Summe und Tage",
            said="{used} von {included} bis {day}.",
            said_unlimited="{used} bis {day}.",
            likely="Es werden {low} bis {high}.",
            early="Zu früh.",
            included="inklusive: {quantity}",
            so_far="bisher",
            day="{day}, {quantity}",
        )
        now = after(10)
        for included in (280, None):
            reply = usage([10] * 10, included=included)
            for likely in (project(reply, now), None):
                text = chart(reply, likely, now, words=words)
                assert not re.search("total|of |used by|pace|early|included:|so far", text)

    def test_two_charts_on_a_page(self) -> None:
        """Charts with different prefixes have no id in common, and refer to their own."""
        reply = usage([10] * 10, included=280)
        first, second = (drawn(reply, after(10), prefix) for prefix in ("a", "b"))
        ids = [{e.get("id") for e in svg.iter() if e.get("id")} for svg in (first, second)]
        assert len(ids[0]) == len(ids[1]) == 4
        assert not ids[0] & ids[1]

    def test_names_are_escaped(self) -> None:
        """A name or unit out of the catalogue is text, whatever is in it."""
        reply = usage([10] * 10, included=280).model_copy(update={"name": EVIL, "unit": EVIL})
        svg = drawn(reply, after(10), prefix='p"><script>')
        assert EVIL in svg.findtext("title", "")
        assert EVIL in said(svg)
        assert EVIL in of_class(svg, "hit")[0].findtext("title", "")
        assert_strict(svg)

    @given(
        st.integers(1, 366),
        st.data(),
        st.one_of(st.none(), st.integers(0, 10**15 - 1)),
        st.integers(1, 10**15 - 1),
    )
    def test_nothing_is_outside_the_picture(
        self, length: int, data: st.DataObject, included: int | None, most: int
    ) -> None:
        """Whatever was used in whatever period, marks and labels fit a screen of 320 pixels."""
        now = START + timedelta(minutes=data.draw(st.integers(0, length * 1440 + 100)))
        begun = min((now - START).days + 1, length)
        daily = data.draw(st.lists(st.integers(-most // 9, most // 9), max_size=min(9, begun)))
        svg = drawn(usage(daily, included=included, end=START + timedelta(days=length)), now)
        assert_strict(svg)
        shapes = list(svg.iter("rect"))
        assert shapes
        for shape in shapes:
            if shape.get("width", "").endswith("%"):
                assert 0 <= number(shape, "x") <= 100
                assert number(shape, "width") > 0
                assert number(shape, "x") + number(shape, "width") <= 100.001
            assert number(shape, "height") >= 0
            assert 0 <= number(shape, "y") <= 290
        labels = [each for each in svg.iter("text") if each.get("class") != "wide"]
        assert len(labels) >= 3
        for label in labels:
            left, right = sides(label)
            assert left >= -3
            assert right <= NARROW + 3
            assert 10 <= number(label, "y") <= 306
        assert apart([each for each in labels if each.get("y") == "306"])

    @example(16, 40391, 2202)
    @given(st.integers(1, 29), st.integers(0, 10**6), st.integers(1, 10**5))
    def test_labels_are_not_on_top_of_each_other(
        self, complete: int, included: int, each: int
    ) -> None:
        """However near what is used and what is included are, both can be read."""
        svg = drawn(usage([each] * complete, included=included), after(complete))
        labels = [label for label in of_class(svg, "halo") if label.tag == "text"]
        assert apart(labels)


def assert_strict(svg: ET.Element) -> None:
    """Only what the content security policy and the style sheet know is in the picture."""
    sheet = SHEET.read_text(encoding="utf-8")
    elements = list(svg.iter())
    assert elements
    for each in elements:
        assert each.tag in {
            *("svg", "title", "desc", "line", "rect", "text", "tspan"),
            *("polygon", "polyline", "clipPath"),
        }
        assert set(each.keys()) <= ATTRIBUTES
    ids = [each.get("id") for each in elements if each.get("id")]
    assert len(set(ids)) == len(ids)
    classes = {name for each in elements for name in each.get("class", "").split()}
    assert classes
    for name in classes:
        assert re.search(rf"\.{name}\b", sheet)


def per_cent(*values: str) -> tuple[Decimal, ...]:
    return tuple(map(Decimal, values))


class TestBar:
    def test_within_the_plan(self) -> None:
        """What is used and what is held are parts of what is included."""
        reply = usage([25], included=100).model_copy(update={"held": "10"})
        assert bar(reply) == Bar(*per_cent("25", "25", "0", "25", "10"))

    def test_beyond_the_plan(self) -> None:
        """What is included, a gap, what is beyond, and what is held make a hundred."""
        reply = usage([150], included=100).model_copy(update={"held": "50"})
        assert bar(reply) == Bar(*per_cent("50", "50.8", "24.2", "75", "25"))

    def test_all_is_beyond(self) -> None:
        """Where nothing is included there is no gap."""
        assert bar(usage([150], included=0)) == Bar(*per_cent("0", "0", "100", "100", "0"))

    def test_earlier_free_usage_is_used(self) -> None:
        """Usage of a free period that was left early lowers what is left of the bar."""
        assert bar(usage([20], included=100, used_before=30)) == Bar(
            *per_cent("50", "50", "0", "50", "0")
        )

    def test_nothing_used_of_nothing(self) -> None:
        """An empty bar is empty."""
        assert bar(usage([], included=0)) == Bar(*per_cent("0", "0", "0", "0", "0"))

    def test_unlimited(self) -> None:
        """A feature without a limit has no bar."""
        assert bar(usage([20], included=None)) is None
        assert meter(usage([20], included=None), "20 GB") == ""

    def test_as_svg(self) -> None:
        """The meter has the parts that are not empty, and says what it shows."""
        svg = ET.fromstring(meter(usage([150], included=100), EVIL))  # noqa: S314 - ours
        assert svg.get("aria-label") == EVIL
        assert [(each.get("class"), each.get("x"), each.get("width")) for each in svg] == [
            ("f-track", None, "100%"),
            ("f-used", "0%", "66.67%"),
            ("f-over", "67.47%", "32.53%"),
        ]
        assert_strict(svg)


LIKELY = CostRange(Decimal(35), Decimal(100), capped=True, at_least=False, currency="usd")


class TestRuler:
    def test_the_lengths(self) -> None:
        """The limit stands near the end, and what is likely before it."""
        found = lengths(Decimal("3.15"), LIKELY, Decimal(100))
        assert found == Lengths(*per_cent("3.09", "34.31", "98.04", "98.04"))

    def test_without_a_limit(self) -> None:
        """Without a limit a sixth of the ruler is left beyond what is likely."""
        found = lengths(Decimal(10), LIKELY, None)
        so_far, low, high = per_cent("8.33", "29.17", "83.33")
        assert found == Lengths(so_far, low, high, None)

    def test_nothing_spent(self) -> None:
        """A ruler of nothing is empty."""
        assert lengths(Decimal(0), None, Decimal(0)) == Lengths(*per_cent("0", "0", "0", "0"))

    def test_as_svg(self) -> None:
        """The amounts are written at the ruler and in its description."""
        likely = replace(LIKELY, high=Decimal("99.5"))
        svg = ET.fromstring(ruler(Decimal("3.15"), likely, Decimal("99.5"), "usd"))  # noqa: S314 - ours
        written = ["$3.15 so far", f"$35{RANGE}$99.50 likely", "limit $99.50"]
        assert texts(svg) == written
        assert said(svg) == ", ".join(written) + "."
        assert len(of_class(svg, "l-limit")) == len(of_class(svg, "edge")) == 1
        assert_strict(svg)

    def test_a_likely_cost_far_below_the_limit(self) -> None:
        """It is written beside the cost so far, where its mark is, and not below the limit."""
        likely = replace(LIKELY, low=Decimal(4), high=Decimal(7))
        svg = ET.fromstring(ruler(Decimal(0), likely, Decimal(500), "usd"))  # noqa: S314 - ours
        assert texts(svg) == [f"$0.00 so far · $4{RANGE}$7 likely", "limit $500.00"]
        assert said(svg) == f"$0.00 so far, $4{RANGE}$7 likely, limit $500.00."

    def test_too_early_and_without_a_limit(self) -> None:
        """Only the cost so far is written where nothing else is known."""
        svg = ET.fromstring(ruler(Decimal("3.15"), None, None, "usd"))  # noqa: S314 - ours
        assert texts(svg) == ["$3.15 so far"]
        assert not of_class(svg, "l-limit")
        assert not of_class(svg, "edge")

    def test_a_limit_that_is_far_below(self) -> None:
        """The label of a limit near the left side goes to the right."""
        svg = ET.fromstring(ruler(Decimal(40), None, Decimal(10), "usd"))  # noqa: S314 - ours
        assert of_class(svg, "strong")[0].get("class") == "strong"
        svg = ET.fromstring(ruler(Decimal(4), None, Decimal(10), "usd"))  # noqa: S314 - ours
        assert of_class(svg, "strong")[0].get("class") == "a-end strong"

    def test_words_are_escaped(self) -> None:
        """Texts of another language are texts."""
        words = CostWords(title=EVIL, so_far=EVIL, likely=EVIL, limit=EVIL)
        svg = ET.fromstring(  # noqa: S314 - ours
            ruler(Decimal(4), LIKELY, Decimal(10), "usd", prefix='"<', words=words)
        )
        assert texts(svg) == [EVIL] * 3
        assert_strict(svg)
