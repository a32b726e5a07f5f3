"""What a period is likely to end with: the quantity of a feature, and the cost of all features."""

from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.amounts import overage_cost
from billing.http.projection import (
    Cost,
    CostRange,
    Pace,
    Projection,
    cost_range,
    cost_so_far,
    crossing_day,
    pace,
    project,
)
from tests.unit.billing.pages.replies import END, START, after, days, spending, usage

# A growing month: 19 complete days, and the twentieth up to 14:05.
GROWING = [
    *(16480, 31870, 35210, 33055, 36690, 32120, 15870, 17240, 39990, 43810),
    *(41120, 44380, 42660, 20410, 21960, 49850, 52230, 55480, 57110, 34764),
]
AFTERNOON = after(19, hours=14) + timedelta(minutes=5)

series = st.lists(st.integers(0, 10**9), min_size=7, max_size=29)


class TestPace:
    def test_is_of_the_last_seven_days_and_of_the_seven_before(self) -> None:
        """Rounded to six decimals."""
        found = pace(usage([10] * 7 + [20] * 6 + [21]), after(14))
        assert found == Pace(Decimal("20.142857"), Decimal(10))

    def test_days_before_the_period_count_before(self) -> None:
        earlier = days([4] * 7, START.date() - timedelta(days=7))
        assert pace(usage([10] * 7), after(7), earlier) == Pace(Decimal(10), Decimal(4))

    def test_too_early(self) -> None:
        assert pace(usage([10] * 6), after(6)) is None

    def test_corrections_make_no_pace_below_zero(self) -> None:
        assert pace(usage([10, *[-1] * 7]), after(8)) == Pace(Decimal(0), Decimal(10))


class TestProject:
    def test_an_even_pace(self) -> None:
        """Ten a day for ten days and twenty to go: 200 more, a fifth less or a fifth more."""
        found = project(usage([10] * 10), after(10))
        assert found == Projection(Decimal(260), Decimal(300), Decimal(340), stops=False)

    def test_a_pace_that_doubled_doubles_again_in_fourteen_days(self) -> None:
        """With 14 days left the pace of 20 is bent to 40, and the range has both."""
        now, end = after(14), after(28)
        found = project(usage([10] * 7 + [20] * 7, end=end), now)
        assert found == Projection(
            low=210 + 14 * Decimal(20) * Decimal("0.8"),
            mid=210 + 14 * Decimal(30),
            high=210 + 14 * Decimal(40) * Decimal("1.2"),
            stops=False,
        )

    def test_a_pace_that_halved_halves_again_in_fourteen_days(self) -> None:
        """With 14 days left the pace of 20 is bent to 10: the low end is of 10, the high of 20."""
        found = project(usage([40] * 7 + [20] * 7, end=after(28)), after(14))
        assert found is not None
        assert [found.low, found.high] == [420 + 14 * 8, 420 + 14 * 24]

    @pytest.mark.parametrize(("before", "last"), [(1, 100), (2, 4)])
    def test_the_change_is_at_most_doubling(self, before: int, last: int) -> None:
        """A pace that grew a hundredfold is not expected to do so again."""
        found = project(usage([before] * 7 + [last] * 7, end=after(28)), after(14))
        assert found is not None
        assert found.high == 7 * (before + last) + 14 * 2 * last * Decimal("1.2")

    def test_or_halving(self) -> None:
        """A pace that fell to a tenth is not expected to do so again."""
        found = project(usage([200] * 7 + [20] * 7, end=after(28)), after(14))
        assert found is not None
        assert found.low == 1540 + 14 * 8

    def test_nor_for_the_rest_of_a_year(self) -> None:
        """The pace bends for four weeks and then stays: twice a doubling, whatever is left."""
        found = project(usage([10] * 7 + [20] * 7, end=START + timedelta(days=365)), after(14))
        assert found is not None
        assert found.high == 210 + 351 * 80 * Decimal("1.2")

    def test_the_prototype(self) -> None:
        """A growing month ends where its picture says."""
        found = project(usage(GROWING, included=1_000_000), AFTERNOON)
        assert found is not None
        assert 1_075_000 < found.low < 1_085_000
        assert 1_355_000 < found.high < 1_365_000

    @pytest.mark.parametrize(("complete", "told"), [(0, False), (6, False), (7, True)])
    def test_too_early_to_tell(self, complete: int, told: bool) -> None:  # noqa: FBT001
        """Before seven complete days nothing is said, however much of the next day is over."""
        found = project(usage([10] * (complete + 1)), after(complete, hours=23))
        assert (found is not None) is told

    def test_a_day_that_began_before_the_period_is_not_complete(self) -> None:
        """A period that began at ten has its first complete day tomorrow."""
        start = START + timedelta(hours=10)
        daily = usage([10] * 8, start=start)
        assert project(daily, after(7)) is None
        assert project(daily, after(8)) is not None

    def test_days_without_usage_are_zeros(self) -> None:
        """The pace of a week with one day of usage is a seventh of that day."""
        found = project(usage([0, 0, 70, 0, 0, 0, 0]), after(7))
        assert found is not None
        assert found.mid == 70 + 23 * 10

    def test_today_is_not_in_the_pace(self) -> None:
        """A day that is not over says nothing about the pace, and counts as used."""
        found = project(usage([10] * 7 + [500]), after(7, hours=12))
        assert found is not None
        assert found.mid == 570 + Decimal("22.5") * 10

    def test_no_usage_before(self) -> None:
        """Usage that began a week ago is expected to stay as it is."""
        found = project(usage([0] * 7 + [10] * 7), after(14))
        assert found == Projection(
            low=70 + Decimal(128), mid=70 + Decimal(160), high=70 + Decimal(192), stops=False
        )

    def test_a_young_period_is_compared_with_the_days_that_it_has(self) -> None:
        """Three known days of the seven before do not look like seven with four zeros."""
        even = project(usage([10] * 10), after(10))
        assert even is not None
        assert even.mid == 300

    def test_or_with_the_days_of_the_period_before(self) -> None:
        """After seven days of 20, the seven of 10 in the earlier period show a doubling."""
        earlier = days([10] * 7, START.date() - timedelta(days=7))
        found = project(usage([20] * 7, end=after(21)), after(7), earlier)
        assert found is not None
        assert found.high == 140 + 14 * 40 * Decimal("1.2")

    def test_a_day_of_two_periods_has_the_usage_of_both(self) -> None:
        """The day on which the period changed is one day."""
        start = START + timedelta(hours=10)
        earlier = days([16] * 6 + [10], START.date() - timedelta(days=6))
        found = project(usage([6] + [20] * 7, start=start, end=after(22)), after(8), earlier)
        assert found is not None
        assert found.high == 146 + 14 * 25 * Decimal("1.2")

    def test_corrections_do_not_turn_the_pace_around(self) -> None:
        """A week in which more was taken off than used has the pace 0."""
        found = project(usage([100] * 7 + [-10] * 7), after(14))
        assert found == Projection(Decimal(630), Decimal(630), Decimal(630), stops=False)

    def test_a_feature_without_overage_stops_at_what_is_included(self) -> None:
        """What is used up is not used further, as in a trial and on a free plan."""
        found = project(usage([10] * 10, included=280, overage=False), after(10))
        assert found == Projection(Decimal(260), Decimal(280), Decimal(280), stops=True)
        found = project(usage([10] * 10, included=340, overage=False), after(10))
        assert found == Projection(Decimal(260), Decimal(300), Decimal(340), stops=True)

    def test_usage_of_an_earlier_free_period_lowers_where_it_stops(self) -> None:
        """30 used before leave 250 of 280."""
        reply = usage([10] * 10, included=280, overage=False, used_before=30)
        found = project(reply, after(10))
        assert found == Projection(Decimal(250), Decimal(250), Decimal(250), stops=True)

    def test_an_unlimited_feature_goes_on(self) -> None:
        """Nothing is in the way of a feature of which any quantity is included."""
        found = project(usage([10] * 10, included=None, overage=False), after(10))
        assert found == Projection(Decimal(260), Decimal(300), Decimal(340), stops=False)

    def test_what_was_carried_is_used_and_no_pace(self) -> None:
        """Usage that was counted in an earlier period is part of the total only."""
        found = project(usage([10] * 10, carried=500), after(10))
        assert found is not None
        assert found.mid == 800

    @pytest.mark.parametrize("now", [END, END + timedelta(days=2)])
    def test_a_period_that_is_over(self, now: datetime) -> None:
        """Nothing is left to expect, whatever was used in the last days."""
        found = project(usage([10] * 30), now)
        assert found == Projection(Decimal(300), Decimal(300), Decimal(300), stops=False)

    @given(series, st.integers(0, 23), st.booleans())
    def test_in_order(self, daily: list[int], hour: int, overage: bool) -> None:  # noqa: FBT001
        """The range begins at what is used or above, and the middle is in the range."""
        reply = usage(daily, included=10**9, overage=overage)
        found = project(reply, after(len(daily), hours=hour))
        assert found is not None
        assert Decimal(reply.used) <= found.low <= found.mid <= found.high
        assert overage or found.high <= max(Decimal(reply.used), Decimal(10**9))


class TestCrossingDay:
    def test_a_growing_month(self) -> None:
        """277,701 left at 42,814 a day are used six days and twelve hours after 14:05."""
        assert crossing_day(usage(GROWING, included=1_000_000), AFTERNOON) == date(2026, 11, 27)

    def test_on_the_day_and_not_a_day_late(self) -> None:
        """100 left at 10 a day are used in ten days, from the hour at which they are counted."""
        daily = [10] * 10
        assert crossing_day(usage(daily, included=200), after(10)) == date(2026, 11, 21)
        assert crossing_day(usage(daily, included=195), after(10)) == date(2026, 11, 20)
        assert crossing_day(usage(daily, included=195), after(10, hours=13)) == date(2026, 11, 21)

    def test_not_in_this_period(self) -> None:
        """300 at the end of a period that includes 300 are not beyond it."""
        assert crossing_day(usage([10] * 10, included=300), after(10)) is None
        assert crossing_day(usage([10] * 10, included=299), after(10)) == date(2026, 11, 30)

    def test_a_feature_that_stops_has_a_day_too(self) -> None:
        """The day on which a feature is used up is known as well."""
        reply = usage([10] * 10, included=200, overage=False, used_before=50)
        assert crossing_day(reply, after(10)) == date(2026, 11, 16)

    @pytest.mark.parametrize(
        ("daily", "included", "complete"),
        [
            *(([10] * 10, 100, 10), ([10] * 10, 0, 10), ([10] * 10, None, 10)),
            *(([10] * 6, 70, 6), ([10] + [0] * 9, 100, 10)),
        ],
        ids=["reached", "nothing included", "unlimited", "too early", "no usage of late"],
    )
    def test_no_day(self, daily: list[int], included: int | None, complete: int) -> None:
        """No day is named that is past, never comes, or is not known."""
        assert crossing_day(usage(daily, included=included), after(complete)) is None


class TestCostSoFar:
    def test_the_sum_of_what_is_known(self) -> None:
        """A feature without a known price leaves the sum at least as much."""
        known, unknown = usage([200], included=100), usage([200], included=100, price=None)
        assert cost_so_far([known, known]) == Cost(Decimal(2), at_least=False)
        assert cost_so_far([unknown, known]) == Cost(Decimal(1), at_least=True)


class TestCostRange:
    def test_of_all_features(self) -> None:
        """260 to 340 of 100, at a cent, twice."""
        one = usage([10] * 10, included=100)
        found = cost_range([one, one], spending(), after(10))
        assert found == CostRange(
            Decimal("3.20"), Decimal("4.80"), capped=False, at_least=False, currency="usd"
        )

    @pytest.mark.parametrize(
        ("limit", "low", "high", "capped"),
        [("4.80", "3.20", "4.80", False), ("4", "3.20", "4", True), ("2.50", "2.50", "2.50", True)],
    )
    def test_held_by_the_limit(
        self,
        limit: str,
        low: str,
        high: str,
        capped: bool,  # noqa: FBT001
    ) -> None:
        """No more than the limit is billed, so that no more is likely."""
        one = usage([10] * 10, included=100)
        found = cost_range([one, one], spending(limit), after(10))
        assert found is not None
        assert (found.low, found.high, found.capped) == (Decimal(low), Decimal(high), capped)

    def test_a_limit_below_what_is_spent(self) -> None:
        """What is spent stays spent: 200 beyond at a cent, with a limit of one dollar."""
        found = cost_range([usage([30] * 10, included=100)], spending("1.00"), after(10))
        assert found is not None
        assert found.low == found.high == 2
        assert found.capped

    def test_one_of_several_features_has_what_the_others_leave_of_the_limit(self) -> None:
        """A line of the next invoice: it is never likely to pass the limit that holds all lines."""
        one = usage([10] * 10, included=100)
        found = cost_range([one], spending("3"), after(10), elsewhere=Decimal("1.50"))
        assert found is not None
        assert (found.low, found.high, found.capped) == (Decimal("1.50"), Decimal("1.50"), True)

    def test_features_that_cost_nothing(self) -> None:
        """What stops, and what is unlimited, costs nothing and is known to."""
        stops = usage([30] * 10, included=100, overage=False)
        unlimited = usage([30] * 10, included=None)
        found = cost_range([stops, unlimited], spending(), after(10))
        assert found == CostRange(
            Decimal(0), Decimal(0), capped=False, at_least=False, currency="usd"
        )

    def test_a_price_that_is_not_known(self) -> None:
        """Usage beyond the plan without a price leaves the sum at least as much."""
        known = usage([10] * 10, included=100)
        unknown = usage([10] * 10, included=100, price=None)
        within = usage([10] * 10, included=1000, price=None)
        sums = [cost_range([other, known], spending(), after(10)) for other in (unknown, within)]
        assert [(s.low, s.high, s.at_least) for s in sums if s] == [
            (Decimal("1.60"), Decimal("2.40"), True),
            (Decimal("1.60"), Decimal("2.40"), False),
        ]

    def test_too_early_to_tell(self) -> None:
        """A feature that may cost something and is too young leaves the sum unknown."""
        young, free = usage([10] * 6), usage([10] * 6, included=None)
        assert cost_range([young], spending(), after(6)) is None
        assert cost_range([free], spending(), after(6)) is not None

    def test_a_plan_without_overage(self) -> None:
        """Where nothing is billed beyond the price, as in a trial, there is nothing to say."""
        assert cost_range([usage([10] * 10, overage=False)], None, after(10)) is None

    def test_the_days_before_are_those_of_the_feature(self) -> None:
        """A doubling since the last period raises the high end."""
        earlier = days([10] * 7, START.date() - timedelta(days=7))
        reply = usage([20] * 7, included=0, end=after(21))
        found = cost_range([reply], spending(), after(7), {"storage": earlier})
        assert found is not None
        assert found.high == Decimal("8.12")

    @given(
        series,
        st.integers(0, 10**9),
        st.decimals(0, 100, places=8),
        st.sampled_from(["usd", "jpy"]),
    )
    def test_as_the_invoice_rounds(
        self, daily: list[int], included: int, price: Decimal, currency: str
    ) -> None:
        """The cost of a likely quantity is what the ledger would bill for that quantity."""
        reply = usage(daily, included=included, price=str(price), currency=currency)
        now = after(len(daily))
        found, likely = cost_range([reply], spending(None, currency), now), project(reply, now)
        assert found is not None
        assert likely is not None
        billed = [
            overage_cost(max(Decimal(0), total - included), price * 10_000, currency)
            for total in (likely.low, likely.high)
        ]
        assert [found.low, found.high] == billed
