"""What a given use would cost on each plan."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.amounts import RATE_SCALE, format_decimal, overage_cost
from billing.http.estimate import Obstacle, price_of, rows
from billing.http.shapes.plans import OveragePrice, PlanFeatureReply, PlanReply, Plans, PriceReply

NOTHING = Decimal(0)


def feature(
    code: str = "api_calls",
    included: str | None = "1000",
    price: str | None = None,
    *,
    overage: bool | None = None,
    unlimited: bool = False,
    enabled: bool = True,
    kind: str = "usage",
    currency: str = "usd",
) -> PlanFeatureReply:
    """A feature of a plan; with overage where a price is given, unless said otherwise."""
    sold = price is not None if overage is None else overage
    return PlanFeatureReply(
        code=code,
        name=code.replace("_", " "),
        type=kind,
        enabled=enabled,
        unit=None,
        included=None if unlimited else included,
        unlimited=unlimited,
        overage=OveragePrice(enabled=sold, unit_price=price, currency=currency),
    )


def plan(
    name: str,
    *features: PlanFeatureReply,
    is_free: bool = False,
    currency: str = "usd",
    prices: Mapping[str, str] | None = None,
    **by_interval: str,
) -> PlanReply:
    """A plan with prices by interval; the first one is the default."""
    return PlanReply(
        id=f"pln_{name}",
        code=name,
        name=name,
        description=None,
        is_free=is_free,
        prices=[
            PriceReply(
                amount=amount,
                currency=currency,
                interval=interval,
                is_default=n == 0,
                trial_days=0,
            )
            for n, (interval, amount) in enumerate({**(prices or {}), **by_interval}.items())
        ],
        features=list(features),
    )


def catalogue(*plans: PlanReply) -> Plans:
    return Plans(as_of=datetime(2026, 11, 20, tzinfo=UTC), plans=list(plans))


def sums(
    found: Plans, asked: str = "1200", interval: str = "monthly", code: str = "api_calls"
) -> Sequence[tuple[str, ...]]:
    """Of each plan: its price, what is beyond, the sum and the interval."""
    return [
        (str(row.base), str(row.extra), str(row.total), row.interval)
        for row in rows(found, {code: Decimal(asked)}, interval=interval)
    ]


def obstacle(of: PlanReply, asked: str = "1200", code: str = "api_calls") -> Obstacle | None:
    [row] = rows(catalogue(of), {code: Decimal(asked)}, interval="monthly")
    if row.obstacle:
        assert row.base == row.extra == row.total == 0
        assert not row.is_cheapest
    return row.obstacle


class TestRows:
    def test_the_prototype(self) -> None:
        """1.2 million calls, 140 GB and 4,000 mails: two stop, the dearest is cheapest."""

        def offer(
            calls: str, storage: str, mails: str, *over: str | None
        ) -> list[PlanFeatureReply]:
            codes = (("api_calls", calls), ("storage", storage), ("email_sends", mails))
            prices = over or (None, None, None)
            return [feature(c, q, p) for (c, q), p in zip(codes, prices, strict=True)]

        found = rows(
            catalogue(
                plan("Free", *offer("10000", "5", "500"), is_free=True),
                plan("Fixed", *offer("100000", "50", "5000"), monthly="9.00"),
                plan(
                    "Usage Pro",
                    *offer("1000000", "100", "10000", "0.0004", "0.1", None),
                    monthly="29.00",
                ),
                plan(
                    "Usage Max",
                    *offer("5000000", "1000", "100000", "0.0003", "0.08", "0.0008"),
                    monthly="99.00",
                ),
            ),
            {
                "api_calls": Decimal(1_200_000),
                "storage": Decimal(140),
                "email_sends": Decimal(4000),
            },
            interval="monthly",
        )
        assert [(row.plan.name, row.total, row.is_cheapest) for row in found] == [
            ("Free", 0, False),
            ("Fixed", 0, False),
            ("Usage Pro", Decimal("113.00"), False),
            ("Usage Max", Decimal("99.00"), True),
        ]
        assert [row.obstacle for row in found] == [
            Obstacle("limit_reached", "api calls", "api_calls", "10000"),
            Obstacle("limit_reached", "api calls", "api_calls", "100000"),
            None,
            None,
        ]

    def test_a_year_has_twelve_months_of_overage(self) -> None:
        """The price is for the year, and each month's overage is rounded and billed by itself."""
        of = plan("Pro", feature(price="0.00051"), monthly="29.00", yearly="290.00")
        assert sums(catalogue(of)) == [("29.00", "0.10", "29.10", "monthly")]
        assert sums(catalogue(of), interval="yearly") == [("290.00", "1.20", "291.20", "yearly")]

    def test_a_plan_with_another_interval_is_paid_several_times(self) -> None:
        """A plan that is only charged by the month costs twelve prices in a year."""
        of = plan("Pro", feature(price="0.01"), monthly="29.00")
        assert sums(catalogue(of), interval="yearly") == [("348.00", "24.00", "372.00", "yearly")]
        assert sums(catalogue(of), interval="quarterly") == [
            ("87.00", "6.00", "93.00", "quarterly")
        ]

    def test_or_shown_for_its_own_interval(self) -> None:
        """A plan that is only charged by the year has no price for a month."""
        of = plan("Pro", feature(price="0.01"), yearly="290.00")
        assert sums(catalogue(of)) == [("290.00", "24.00", "314.00", "yearly")]

    def test_a_week_has_its_share_of_the_month(self) -> None:
        """7 of the 30.416... days of a month: 3,650 calls a month are 840 in a week."""
        of = plan("Pro", feature(included="800", price="0.01"), weekly="7.00")
        assert sums(catalogue(of), "3650") == [("7.00", "0.40", "7.40", "weekly")]

    def test_once(self) -> None:
        """A plan that is paid once is shown with one month of overage."""
        of = plan("Pro", feature(price="0.01"), one_time="500.00")
        assert sums(catalogue(of)) == [("500.00", "2.00", "502.00", "one_time")]

    def test_free(self) -> None:
        """A free plan costs nothing for any interval, in the currency of the others."""
        of = catalogue(
            plan("Free", feature(), is_free=True),
            plan("Pro", feature(), currency="jpy", monthly="900"),
        )
        found = rows(of, {"api_calls": Decimal(1000)}, interval="yearly")
        assert [(str(r.total), r.currency, r.interval) for r in found] == [
            ("0", "jpy", "yearly"),
            ("10800", "jpy", "yearly"),
        ]

    def test_a_free_plan_has_no_weeks(self) -> None:
        """What it includes is for a month, so a month's usage is compared with it."""
        of = catalogue(plan("Free", feature(included="1000"), is_free=True))
        [row] = rows(of, {"api_calls": Decimal(3650)}, interval="weekly")
        assert row.obstacle == Obstacle("limit_reached", "api calls", "api_calls", "1000")
        [row] = rows(of, {"api_calls": Decimal(1000)}, interval="weekly")
        assert (row.obstacle, row.interval) == (None, "monthly")

    def test_only_free_plans(self) -> None:
        """Nothing costs nothing, where no plan has a price."""
        [row] = rows(catalogue(plan("Free", feature(), is_free=True)), {}, interval="monthly")
        assert (row.obstacle, row.is_cheapest) == (None, True)

    def test_no_plan(self) -> None:
        """A catalogue without plans has no rows."""
        assert rows(catalogue(), {"api_calls": Decimal(1)}, interval="monthly") == []


class TestLines:
    def test_they_add_up_to_what_is_beyond(self) -> None:
        """Of one month, also where the sums are of a year. What nobody asks for has no line."""
        of = plan("Pro", feature(price="0.01"), feature("storage", "10", "0.1"), yearly="290")
        (row,) = rows(catalogue(of), {"api_calls": Decimal(1200)}, interval="yearly")
        (line,) = row.lines
        assert line.feature.code == "api_calls"
        assert [line.quantity, line.beyond] == [1200, 200]
        assert (line.cost, row.periods, row.extra) == (Decimal("2.00"), 12, Decimal("24.00"))

    def test_of_a_week_is_a_weeks_part(self) -> None:
        of = plan("Pro", feature(included="0", price="1"), weekly="9")
        (row,) = rows(catalogue(of), {"api_calls": Decimal(365)}, interval="weekly")
        assert (row.lines[0].quantity, row.periods) == (Decimal(84), 1)

    def test_a_plan_that_cannot_be_used_has_none(self) -> None:
        of = plan("Fixed", feature(), feature("storage"), monthly="9")
        asked = {"api_calls": Decimal(1200), "storage": Decimal(1)}
        (row,) = rows(catalogue(of), asked, interval="monthly")
        assert row.obstacle
        assert row.lines == ()


class TestObstacles:
    def test_a_feature_that_stops(self) -> None:
        """Without overage a plan stops at what is included, and not below."""
        assert obstacle(plan("Fixed", feature(), monthly="9")) == Obstacle(
            "limit_reached", "api calls", "api_calls", "1000"
        )
        assert obstacle(plan("Fixed", feature(), monthly="9"), "1000") is None

    def test_a_free_plan_stops_whatever_its_price(self) -> None:
        """Usage of a free plan is never billed."""
        of = plan("Free", feature(price="0.01"), is_free=True)
        assert obstacle(of) == Obstacle("limit_reached", "api calls", "api_calls", "1000")

    @pytest.mark.parametrize(
        "features",
        [
            [],
            [feature(enabled=False)],
            [feature(included="0")],
            [feature(included=None)],
            [feature(kind="boolean")],
        ],
        ids=["not there", "not enabled", "nothing", "no quantity", "not metered"],
    )
    def test_a_feature_that_is_missing(self, features: list[PlanFeatureReply]) -> None:
        """What a plan gives nothing of is named as another plan names it."""
        other = plan("Pro", feature(unlimited=True), monthly="9")
        found = rows(
            catalogue(plan("Fixed", *features, monthly="9"), other),
            {"api_calls": Decimal(1)},
            interval="monthly",
        )
        assert [row.obstacle for row in found] == [
            Obstacle("feature_not_in_plan", "api calls", "api_calls"),
            None,
        ]

    def test_what_nobody_asks_for_is_no_obstacle(self) -> None:
        """A plan without a feature can be had by who uses none of it."""
        assert obstacle(plan("Fixed", monthly="9"), "0") is None

    def test_a_feature_that_no_plan_has(self) -> None:
        """A feature without a name is shown by its code."""
        assert obstacle(plan("Fixed", monthly="9"), "1", "seats") == Obstacle(
            "feature_not_in_plan", "seats", "seats"
        )

    def test_an_unlimited_feature(self) -> None:
        """Any quantity of it is in the price."""
        assert obstacle(plan("Max", feature(unlimited=True), monthly="9"), "999999") is None

    def test_a_price_that_is_not_known(self) -> None:
        """Overage without a price cannot be worked out; what is included can."""
        of = plan("Pro", feature(overage=True), monthly="9")
        assert obstacle(of) == Obstacle("price_unknown", "api calls", "api_calls")
        assert obstacle(of, "1000") is None

    def test_a_plan_whose_price_is_not_known(self) -> None:
        """A plan that is not free and names no price has none that we know."""
        assert obstacle(plan("Pro", feature())) == Obstacle("price_unknown", "Pro", None)

    def test_overage_in_another_currency_makes_no_sum(self) -> None:
        """Dollars for each call beside a plan in euros: no total can be said."""
        of = plan("Pro", feature(price="0.01"), currency="eur", monthly="29")
        assert obstacle(of) == Obstacle("price_unknown", "api calls", "api_calls")
        assert obstacle(of, "1000") is None


class TestCheapest:
    def test_the_first_of_several(self) -> None:
        """Of two plans with the same total the first is marked."""
        of = catalogue(
            plan("A", feature(included="0", price="1"), monthly="9.00"),
            plan("B", feature(), monthly="10.00"),
            plan("C", feature(), monthly="10.00"),
        )
        found = rows(of, {"api_calls": Decimal(1)}, interval="monthly")
        assert [row.is_cheapest for row in found] == [True, False, False]
        found = rows(of, {"api_calls": Decimal(2)}, interval="monthly")
        assert [row.is_cheapest for row in found] == [False, True, False]

    def test_by_the_month_where_intervals_differ(self) -> None:
        """100 a year are 8.33 a month. 1.90 a week are 8.26, and 1.95 a week are 8.47."""
        of = catalogue(
            plan("Month", monthly="9.00"), plan("Year", yearly="100"), plan("Week", weekly="1.90")
        )
        assert [row.is_cheapest for row in rows(of, {}, interval="monthly")] == [False, False, True]
        of = catalogue(
            plan("Month", monthly="9.00"), plan("Year", yearly="100"), plan("Week", weekly="1.95")
        )
        assert [row.is_cheapest for row in rows(of, {}, interval="monthly")] == [False, True, False]

    def test_not_across_currencies(self) -> None:
        """9 euros and 10 dollars cannot be compared."""
        of = catalogue(plan("A", currency="eur", monthly="9"), plan("B", monthly="10"))
        assert [row.is_cheapest for row in rows(of, {}, interval="monthly")] == [False, False]


class TestPriceOf:
    def test_the_interval_the_default_or_the_first(self) -> None:
        """A plan without the interval asked for has its default price."""
        both = plan("Pro", monthly="9", yearly="90")
        for interval, amount in (("yearly", "90"), ("monthly", "9"), ("weekly", "9")):
            price = price_of(both, interval)
            assert price is not None
            assert price.amount == amount
        assert price_of(plan("Free", is_free=True), "monthly") is None


offers = st.lists(
    st.tuples(
        st.integers(0, 10**9),  # included
        st.decimals(0, 1000, places=8),  # price of one more
        st.integers(0, 2 * 10**9),  # asked for
    ),
    max_size=4,
)


class TestMoney:
    @given(
        offers,
        st.decimals(0, 10**6, places=2),
        st.sampled_from(["usd", "jpy", "bhd"]),
        st.sampled_from([("monthly", 1), ("quarterly", 3), ("yearly", 12)]),
    )
    def test_what_the_ledger_would_bill(
        self,
        offered: list[tuple[int, Decimal, int]],
        base: Decimal,
        currency: str,
        interval: tuple[str, int],
    ) -> None:
        """Each month each feature's overage is rounded as an invoice's line is, then added up."""
        code, months = interval
        features = [
            feature(f"f{n}", str(included), format_decimal(price), currency=currency)
            for n, (included, price, _) in enumerate(offered)
        ]
        asked = {f"f{n}": Decimal(quantity) for n, (*_, quantity) in enumerate(offered)}
        of = plan("Pro", *features, currency=currency, prices={code: str(base)})
        [row] = rows(catalogue(of), asked, interval=code)
        lines = [
            overage_cost(max(NOTHING, Decimal(quantity - included)), price * RATE_SCALE, currency)
            for included, price, quantity in offered
        ]
        assert row.extra == sum((line or NOTHING for line in lines), NOTHING) * months
        assert row.total == base + row.extra
