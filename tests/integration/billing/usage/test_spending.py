"""What a user may spend beyond the included quantities, on a real Postgres."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from itertools import count
from threading import Barrier

import pytest
from psycopg.types.json import Jsonb

from billing.database.connection import Database
from billing.errors import InvalidRequest, NotFound
from billing.usage.accepting import UsageEvent, accept, check
from billing.usage.corrections import Correction, correct
from billing.usage.reservations import Reservation, confirm, release, reserve
from billing.usage.rules import Rules
from billing.usage.spending import Spending, set_limit, spending_of
from tests.integration.billing.conftest import (
    NOW,
    STATUSES,
    Subscribe,
    after,
    grant_feature,
    own_database,
)

# 100 are included, each one beyond costs 0.10: 250 units cost 15.00.
RULES = Rules(STATUSES, ceilings={"usd": Decimal(15)}, at_once={"usd": Decimal(5)})
END = datetime.fromisoformat("2026-10-01T00:00:00Z")

_keys = count()


def event(quantity: str, feature: str = "storage", *, key: str | None = None) -> UsageEvent:
    return UsageEvent("usr_ana", feature, Decimal(quantity), key or f"key-{next(_keys)}")


def take(db: Database, *events: UsageEvent, rules: Rules = RULES, now: datetime = NOW) -> list[str]:
    """What became of each event."""
    return [v.code or v.status for v in accept(db, events, rules=rules, now=now)]


def use(db: Database, quantity: str, feature: str = "storage", rules: Rules = RULES) -> str:
    (found,) = take(db, event(quantity, feature), rules=rules)
    return found


def hold(
    db: Database, quantity: str, feature: str = "storage", *, key: str | None = None
) -> str | Reservation:
    """The reservation, or why there is none."""
    found = reserve(db, event(quantity, feature, key=key), rules=RULES, now=NOW)
    return found.code or found.reservation or ""


def add(db: Database, quantity: str) -> str:
    """What becomes of a correction of the running period."""
    correction = Correction("usr_ana", "storage", Decimal(quantity), f"key-{next(_keys)}", "test")
    return correct(db, correction, author="me", rules=RULES, now=NOW).code or "accepted"


def spending(db: Database, rules: Rules = RULES, now: datetime = NOW) -> Spending | None:
    return spending_of(db, "usr_ana", rules=rules, now=now)


class TestCeiling:
    def test_up_to_the_ceiling(self, db: Database, subscribe: Subscribe) -> None:
        """It may be reached to the cent, and not passed; smaller usage still fits."""
        subscribe()
        assert use(db, "249.9") == "accepted"
        assert use(db, "0.2") == "spend_limit_reached"
        assert use(db, "0.1") == "accepted"
        assert use(db, "0.000001") == "spend_limit_reached"
        assert spending(db) == Spending(Decimal(15), Decimal(15), "default", "usd")

    def test_what_is_included_is_never_refused(self, db: Database, subscribe: Subscribe) -> None:
        """Another feature's included quantity stays usable, however much was spent."""
        subscribe()
        grant_feature(db, "usr_ana", "tokens")
        assert use(db, "250") == "accepted"
        assert use(db, "100", "tokens") == "accepted"
        assert use(db, "1", "tokens") == "spend_limit_reached"

    def test_over_all_features(self, db: Database, subscribe: Subscribe) -> None:
        """The costs of all features add up, each at its own price."""
        subscribe()
        grant_feature(db, "usr_ana", "tokens", unit_price=Decimal(20000))
        assert use(db, "200") == "accepted"  # 10.00
        assert use(db, "103", "tokens") == "spend_limit_reached"  # 6.00
        assert use(db, "102", "tokens") == "accepted"  # 4.00
        assert use(db, "11") == "spend_limit_reached"
        assert use(db, "10") == "accepted"

    def test_in_a_batch(self, db: Database, subscribe: Subscribe) -> None:
        """The outcome is the same as if the events had come one after the other."""
        subscribe()
        grant_feature(db, "usr_ana", "tokens")
        batch = [event("200"), event("140", "tokens"), event("20"), event("10"), event("1")]
        refused = "spend_limit_reached"
        assert take(db, *batch) == ["accepted", "accepted", refused, "accepted", refused]

    def test_of_each_user(self, db: Database, subscribe: Subscribe) -> None:
        """In a batch of several users each has a ceiling of their own."""
        for user in ("usr_ana", "usr_bob"):
            subscribe(user)
        batch = [
            UsageEvent(user, "storage", Decimal(quantity), f"key-{next(_keys)}")
            for user in ("usr_bob", "usr_ana")
            for quantity in ("240", "20")
        ]
        refused = "spend_limit_reached"
        assert take(db, *batch) == ["accepted", refused, "accepted", refused]

    def test_a_new_period(self, db: Database, subscribe: Subscribe) -> None:
        """The ceiling holds for an allowance period; the next one begins at nothing."""
        subscribe()
        assert take(db, event("250")) == ["accepted"]
        assert take(db, event("250"), event("1"), now=END) == ["accepted", "spend_limit_reached"]

    def test_a_duplicate_is_no_new_usage(self, db: Database, subscribe: Subscribe) -> None:
        """An event sent again is told it was counted, whatever was spent since."""
        subscribe()
        first = event("150")
        assert take(db, first) == ["accepted"]
        assert use(db, "100") == "accepted"
        assert take(db, first) == ["duplicate"]

    def test_none(self, db: Database, subscribe: Subscribe) -> None:
        """Where the operator wrote `none`, nothing ends it."""
        subscribe()
        assert use(db, "1000000", rules=replace(RULES, ceilings={"usd": None})) == "accepted"

    def test_a_currency_without_ceiling(self, db: Database, subscribe: Subscribe) -> None:
        """What is included may be used and no more, and the currency rings once."""
        subscribe()
        db.execute("update entitlements set currency = 'brl'")
        assert use(db, "100") == "accepted"
        assert [use(db, "1"), use(db, "1")] == ["spend_limit_reached"] * 2
        noted = db.all("select alarm, subject from alarm_once")
        assert noted == [{"alarm": "currency_without_ceiling", "subject": "brl"}]

    @pytest.mark.parametrize("rules", [RULES, replace(RULES, ceilings={"usd": None})])
    def test_a_price_that_nobody_told(
        self, db: Database, subscribe: Subscribe, rules: Rules
    ) -> None:
        """Overage without a price is refused, with a ceiling and without one."""
        subscribe(unit_price=None)
        assert use(db, "100", rules=rules) == "accepted"
        assert use(db, "1", rules=rules) == "price_unknown"
        assert hold(db, "1") == "price_unknown"
        assert add(db, "1") == "price_unknown"

    def test_a_price_from_the_public_plans(self, db: Database, subscribe: Subscribe) -> None:
        """What feature access does not tell is taken from the plans."""
        subscribe(unit_price=None, currency=None)
        feature = {"code": "storage", "overage": {"enabled": True, "unit_price": 1000}}
        plan = {"id": "pln_1", "features": [feature]}
        db.execute(
            "insert into plans_cache (id, catalogue, as_of) values (1, %s, now())", [Jsonb([plan])]
        )
        db.execute("update subscriptions set plan_id = 'pln_1'")
        told = [{
            "feature": "storage", "name": "Storage", "unit": "GB", "type": "usage",
            "model": "metered", "allowed": True, "included": "100", "unlimited": False,
            "overage_enabled": True, "unit_price": None, "currency": None,
        }]  # fmt: skip
        db.execute("select record_entitlements('usr_ana', now(), %s)", [Jsonb(told)])
        assert use(db, "250") == "accepted"
        assert use(db, "1") == "spend_limit_reached"


class TestHolds:
    def test_a_hold_counts_at_its_worst_cost(self, db: Database, subscribe: Subscribe) -> None:
        """Until it ends nobody else spends what it may cost, in another feature either."""
        subscribe()
        grant_feature(db, "usr_ana", "tokens")
        reservation = hold(db, "240")  # 14.00
        assert isinstance(reservation, Reservation)
        assert use(db, "111", "tokens") == "spend_limit_reached"
        assert use(db, "110", "tokens") == "accepted"
        assert hold(db, "1") == "spend_limit_reached"
        assert spending(db) == Spending(Decimal(15), Decimal(15), "default", "usd")
        release(db, reservation, now=NOW)
        assert use(db, "240") == "accepted"

    def test_beside_other_usage_of_the_feature(self, db: Database, subscribe: Subscribe) -> None:
        """An event cannot take what is held, and the hold's own event can."""
        subscribe()
        assert isinstance(hold(db, "200", key="job"), Reservation)
        assert use(db, "51") == "spend_limit_reached"
        assert use(db, "50") == "accepted"
        assert take(db, event("200", key="job")) == ["accepted"]
        assert use(db, "1") == "spend_limit_reached"

    def test_less_than_held_gives_room(self, db: Database, subscribe: Subscribe) -> None:
        """In one batch: the event of a hold takes less, and the next one has the rest."""
        subscribe()
        assert isinstance(hold(db, "250", key="job"), Reservation)
        assert take(db, event("50", key="job"), event("200"), event("1")) == [
            "accepted", "accepted", "spend_limit_reached",
        ]  # fmt: skip

    def test_a_promise_is_kept(self, db: Database, subscribe: Subscribe) -> None:
        """Up to its quantity it is booked whatever changed since; beyond it nothing is."""
        subscribe()
        reservation = hold(db, "200")
        assert isinstance(reservation, Reservation)
        set_limit(db, "usr_ana", Decimal(1), by="product", rules=RULES, now=NOW)
        db.execute("update users set has_debt = true")
        db.execute("update subscriptions set status = 'past_due'")
        over = confirm(db, reservation, Decimal(201), rules=RULES, now=NOW)
        assert over.code == "payment_overdue"
        assert confirm(db, reservation, Decimal(200), rules=RULES, now=NOW).code is None

    def test_beyond_the_hold(self, db: Database, subscribe: Subscribe) -> None:
        """Only the part above the hold is decided anew."""
        subscribe()
        reservation = hold(db, "200")
        assert isinstance(reservation, Reservation)
        over = confirm(db, reservation, Decimal(251), rules=RULES, now=NOW)
        assert over.code == "spend_limit_reached"
        assert confirm(db, reservation, Decimal(250), rules=RULES, now=NOW).code is None

    def test_after_it_expired(self, db: Database, subscribe: Subscribe) -> None:
        """An expired hold is no promise any more."""
        subscribe()
        reservation = hold(db, "200")
        assert isinstance(reservation, Reservation)
        later = after(minutes=6)
        assert take(db, event("60"), now=later) == ["accepted"]
        outcome = confirm(db, reservation, Decimal(200), rules=RULES, now=later)
        assert outcome.code == "spend_limit_reached"


class TestCorrections:
    def test_more(self, db: Database, subscribe: Subscribe) -> None:
        """A correction above zero is usage."""
        subscribe()
        assert use(db, "200") == "accepted"
        assert add(db, "51") == "spend_limit_reached"
        assert add(db, "50") == "accepted"

    def test_less(self, db: Database, subscribe: Subscribe) -> None:
        """A correction below zero gives room again."""
        subscribe()
        assert use(db, "250") == "accepted"
        assert add(db, "-30") == "accepted"
        assert use(db, "31") == "spend_limit_reached"
        assert use(db, "30") == "accepted"


class TestStanding:
    @pytest.mark.parametrize(
        "change",
        [
            "update subscriptions set status = 'past_due'",
            "update users set has_dispute = true",
            "update users set has_debt = true",
        ],
    )
    def test_overage_only_in_good_standing(
        self, db: Database, subscribe: Subscribe, change: str
    ) -> None:
        """Past due, an open dispute or a debt: what is included, and no more."""
        subscribe()
        db.execute(change)
        assert use(db, "100") == "accepted"
        assert use(db, "1") == "payment_overdue"
        assert hold(db, "1") == "payment_overdue"
        assert add(db, "1") == "payment_overdue"
        found = check(
            db, user_id="usr_ana", feature="storage", quantity=Decimal(1), rules=RULES, now=NOW
        )
        assert (found.allowed, found.code) == (False, "payment_overdue")

    @pytest.mark.parametrize(
        "change",
        [
            "update subscriptions set status = 'trialing'",
            "update subscriptions set billing_interval = null",
            "update entitlements set overage_enabled = false",
        ],
    )
    def test_trial_and_free(self, db: Database, subscribe: Subscribe, change: str) -> None:
        """Who has no overage anyway reaches a limit, also with a debt."""
        subscribe()
        db.execute(change)
        db.execute("update users set has_debt = true")
        assert use(db, "100") == "accepted"
        assert use(db, "1") == "limit_reached"

    def test_unlimited(self, db: Database, subscribe: Subscribe) -> None:
        """An unlimited feature has no overage to refuse."""
        subscribe(unlimited=True)
        db.execute("update users set has_debt = true")
        assert use(db, "5000") == "accepted"


class TestLimits:
    def test_by_the_product(self, db: Database, subscribe: Subscribe) -> None:
        """Above or below the default; null brings the default back."""
        subscribe()
        set_limit(db, "usr_ana", Decimal("25.50"), by="product", rules=RULES, now=NOW)
        assert use(db, "355") == "accepted"
        assert spending(db) == Spending(Decimal("25.5"), Decimal("25.5"), "product", "usd")
        set_limit(db, "usr_ana", None, by="product", rules=RULES, now=NOW)
        assert spending(db) == Spending(Decimal("25.5"), Decimal(15), "default", "usd")
        assert use(db, "1") == "spend_limit_reached"

    def test_by_the_user(self, db: Database, subscribe: Subscribe) -> None:
        """Only below what applies otherwise; a limit below what is spent refuses what comes."""
        subscribe()
        assert use(db, "200") == "accepted"
        set_limit(db, "usr_ana", Decimal(2), by="user", rules=RULES, now=NOW)
        assert spending(db) == Spending(Decimal(10), Decimal(2), "user", "usd")
        assert use(db, "1") == "spend_limit_reached"
        with pytest.raises(InvalidRequest) as refused:
            set_limit(db, "usr_ana", Decimal("15.01"), by="user", rules=RULES, now=NOW)
        assert refused.value.errors[0].code == "above_ceiling"
        set_limit(db, "usr_ana", Decimal(15), by="user", rules=RULES, now=NOW)
        set_limit(db, "usr_ana", Decimal(12), by="product", rules=RULES, now=NOW)
        assert spending(db) == Spending(Decimal(10), Decimal(12), "product", "usd")

    def test_nothing_may_be_spent(self, db: Database, subscribe: Subscribe) -> None:
        """A limit of 0 is a limit."""
        subscribe()
        set_limit(db, "usr_ana", Decimal(0), by="user", rules=RULES, now=NOW)
        assert [use(db, "100"), use(db, "1")] == ["accepted", "spend_limit_reached"]

    def test_wrong_amounts(self, db: Database, subscribe: Subscribe) -> None:
        """An amount that nobody can be charged, and a user whom nobody knows."""
        subscribe()
        with pytest.raises(InvalidRequest) as refused:
            set_limit(db, "usr_ana", Decimal("1.001"), by="product", rules=RULES, now=NOW)
        assert refused.value.errors[0].code == "too_many_decimals"
        with pytest.raises(NotFound):
            set_limit(db, "usr_nobody", Decimal(1), by="product", rules=RULES, now=NOW)

    def test_without_overage(self, db: Database, subscribe: Subscribe) -> None:
        """A plan that has no overage has nothing to spend."""
        subscribe(overage_enabled=False)
        assert spending(db) is None


class TestNoted:
    def test_valuable_overage_is_due(self, db: Database, subscribe: Subscribe) -> None:
        """From DeliverAtOnceFrom on the user is noted, once."""
        subscribe()
        assert use(db, "149") == "accepted"
        assert db.all("select user_id from overage_due") == []
        assert [use(db, "1"), use(db, "1")] == ["accepted", "accepted"]
        assert db.all("select user_id, value from overage_due") == [
            {"user_id": "usr_ana", "value": Decimal(5)}
        ]

    def test_what_was_claimed_does_not_count(self, db: Database, subscribe: Subscribe) -> None:
        """Only overage that no delivery has yet is worth hurrying."""
        subscribe()
        assert use(db, "200") == "accepted"
        db.execute("delete from overage_due")
        db.execute("update usage_total set claimed = total")
        assert use(db, "49") == "accepted"
        assert db.all("select user_id from overage_due") == []

    def test_after_a_visit_to_the_portal(self, db: Database, subscribe: Subscribe) -> None:
        """For two hours any overage is due."""
        subscribe()
        db.execute("update users set overage_due_until = now() + interval '2 hours'")
        assert use(db, "100") == "accepted"
        assert db.all("select user_id from overage_due") == []
        assert use(db, "0.1") == "accepted"
        assert len(db.all("select user_id from overage_due")) == 1

    def test_by_confirming_and_correcting(self, db: Database, subscribe: Subscribe) -> None:
        """Whatever books usage notes it."""
        subscribe()
        reservation = hold(db, "160")
        assert isinstance(reservation, Reservation)
        assert confirm(db, reservation, Decimal(160), rules=RULES, now=NOW).code is None
        assert db.value("delete from overage_due returning user_id") == "usr_ana"
        assert add(db, "1") == "accepted"
        assert db.value("delete from overage_due returning user_id") == "usr_ana"

    def test_near_the_ceiling(self, db: Database, subscribe: Subscribe) -> None:
        """The first user of each day who passes four fifths of the default ceiling."""
        for user in ("usr_ana", "usr_bob"):
            subscribe(user)
        assert use(db, "219") == "accepted"
        assert db.all("select alarm from alarm_once") == []
        assert use(db, "1") == "accepted"
        bob = UsageEvent("usr_bob", "storage", Decimal(250), "b")
        assert take(db, bob) == ["accepted"]
        assert take(db, replace(bob, quantity=Decimal(249), idempotency_key="c")) == [
            "spend_limit_reached"
        ]
        (noted,) = db.all("select alarm, subject, about from alarm_once")
        assert noted == {"alarm": "near_ceiling", "subject": "2026-09-10", "about": "usr_ana"}


class TestConcurrency:
    def test_500_calls_at_the_ceiling(
        self, db: Database, database_url: str, subscribe: Subscribe
    ) -> None:
        """Single, batched, reserved and corrected over three features: never above, to the cent."""
        subscribe()
        prices = {"storage": Decimal(1000), "tokens": Decimal(300), "egress": Decimal(70)}
        for feature, price in prices.items():
            grant_feature(db, "usr_ana", feature, included=Decimal(10), unit_price=price)
        threads, each = 10, 50
        ready = Barrier(threads)

        def work(number: int) -> int:
            with own_database(database_url) as own:
                ready.wait()
                return sum(self.one_call(own, number, n) for n in range(each))

        with ThreadPoolExecutor(threads) as pool:
            refused = sum(pool.map(work, range(threads)))
        spent = sum(
            max(Decimal(0), row["total"] - 10) * prices[row["feature"]] / 10000
            for row in db.all("select feature, total from usage_total")
        )
        held = db.value("select count(*) from usage_reservation where state = 'held'")
        assert (refused > 0, held) == (True, 0)
        assert Decimal(13) < spent <= 15
        assert spending(db) == Spending(spent, Decimal(15), "default", "usd")

    def one_call(self, db: Database, thread: int, n: int) -> int:
        """One of four kinds of calls; answers how much of it was refused."""
        feature = ("storage", "tokens", "egress")[n % 3]
        quantity = f"{1 + (thread * 7 + n) % 5}.25"
        kind: Callable[[], int] = (
            lambda: take(db, event(quantity, feature)).count("spend_limit_reached"),
            lambda: take(db, *[event("0.5", f) for f in ("storage", "tokens", "egress")]).count(
                "spend_limit_reached"
            ),
            lambda: self.reserved(db, quantity, feature),
            lambda: int(add(db, quantity) == "spend_limit_reached"),
        )[(thread + n) % 4]
        return kind()

    def reserved(self, db: Database, quantity: str, feature: str) -> int:
        reservation = hold(db, quantity, feature)
        if not isinstance(reservation, Reservation):
            assert reservation == "spend_limit_reached"
            return 1
        done = confirm(db, reservation, Decimal(quantity), rules=RULES, now=NOW)
        assert done.code is None  # what is held is a promise
        return 0


class TestAfterAccessEnded:
    """Usage from before the end, reported within the grace: as while access ran."""

    @pytest.fixture(autouse=True)
    def _ended(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        grant_feature(db, "usr_ana", "tokens")
        db.execute("update subscriptions set status = 'canceled'")
        db.execute("update usage_period set closed_at = %s", [NOW])

    def late(self, db: Database, *quantities: tuple[str, str]) -> list[str]:
        before = after(seconds=-1)
        events = [replace(event(q, feature), occurred_at=before) for feature, q in quantities]
        return take(db, *events, now=after(seconds=1))

    def test_one_ceiling_over_all_features(self, db: Database) -> None:
        """In one batch and over several: 10 dollars of one feature leave 5 for the other."""
        assert self.late(db, ("storage", "200"), ("tokens", "160"), ("tokens", "150")) == [
            "accepted", "spend_limit_reached", "accepted",
        ]  # fmt: skip
        assert self.late(db, ("storage", "0.1")) == ["spend_limit_reached"]

    def test_without_good_standing(self, db: Database) -> None:
        """What is included, and no more."""
        db.execute("update users set has_dispute = true")
        assert self.late(db, ("storage", "101"), ("storage", "100")) == [
            "payment_overdue", "accepted",
        ]  # fmt: skip

    def test_without_a_price(self, db: Database) -> None:
        db.execute("update entitlements set unit_price = null")
        assert self.late(db, ("storage", "101")) == ["price_unknown"]

    def test_beside_what_is_held(self, db: Database) -> None:
        """Work that was reserved before the end may still be confirmed."""
        db.execute("update subscriptions set status = 'active'")
        db.execute("update usage_period set closed_at = null")
        db.execute("update entitlements set overage_enabled = false")
        assert isinstance(hold(db, "60"), Reservation)
        db.execute("update subscriptions set status = 'canceled'")
        db.execute("update usage_period set closed_at = %s", [NOW])
        assert self.late(db, ("storage", "41"), ("storage", "40")) == ["limit_reached", "accepted"]
