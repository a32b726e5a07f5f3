"""A trial once, a free allowance once, however often somebody leaves and comes back."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb

from billing.accounts.accounts import User
from billing.clock import wall_clock
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.delivery.outbox import claim
from billing.subscriptions import mirror
from billing.subscriptions.access import Access
from billing.usage.accepting import UsageEvent, accept, check
from billing.usage.totals import usage_of_user
from standin.testing import StandIn, standin
from tests.integration.billing.conftest import RULES, add_user, own_database
from tests.integration.billing.subscriptions.test_checkout import _cancel
from tests.integration.billing.subscriptions.test_doubt import (  # noqa: F401 - one is a fixture
    SETTINGS,
    Person,
    person,
    soon,
)
from tests.proof.money import CATALOGUE

BEGIN = datetime(2026, 9, 10, tzinfo=UTC)
END = datetime(2026, 10, 10, tzinfo=UTC)
FEATURE = {
    "feature": "storage", "name": "Storage", "unit": "GB", "type": "usage", "model": "metered",
    "allowed": True, "included": "5", "unlimited": False, "overage_enabled": False,
    "unit_price": None, "currency": None,
}  # fmt: skip


class TestFreeAtCommet:
    def leave(self, person: Person, sub: str) -> None:  # noqa: F811
        """Cancels at once, and our mirror hears of it."""
        _cancel(person.remote, sub)
        person.db.execute("update subscriptions set refresh_due = now()")
        person.time_passes()
        assert person.access.ask(person.user.id, soon())
        person.time_passes()

    def test_three_rounds(self, person: Person) -> None:  # noqa: F811
        """Cancel now and check out again: five are used in all, on a plan of five."""
        for used in ("3", "2", None):
            sub = person.buy("free")
            if used:
                assert person.code(used) is None
                person.time_passes()
            assert person.code("3") == "limit_reached"
            person.time_passes()
            self.leave(person, sub)
        assert person.db.value("select sum(quantity) from usage_event") == 5

    def test_a_paid_plan_is_not_lessened(self, person: Person) -> None:  # noqa: F811
        """Whoever pays gets all that is included."""
        sub = person.buy("free")
        assert person.code("5") is None
        person.time_passes()
        self.leave(person, sub)
        person.buy("usage_pro")
        assert person.code("100") is None


class Rounds:
    """Subscriptions of one user, as changes tell them."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.user = add_user(db, "usr_ana")
        self.number = 0

    def begin(
        self, at: datetime, *, free: bool = True, ends: datetime = END, included: str = "5"
    ) -> str:
        """A subscription begins; its id."""
        self.number += 1
        known = {
            "status": "active", "plan_id": "pln_free" if free else "pln_pro",
            "billing_interval": None if free else "monthly",
        }  # fmt: skip
        change = {
            "subscription": {"id": f"sub_{self.number}", "known": known},
            "features": [FEATURE | {"included": included}],
            "period": {
                "subscription": f"sub_{self.number}", "start": at.isoformat(),
                "end": ends.isoformat(),
            },
        }  # fmt: skip
        self.record(at, change)
        return f"sub_{self.number}"

    def end(self, sub: str, at: datetime) -> None:
        """It is canceled."""
        self.record(at, {"subscription": {"id": sub, "known": {"status": "canceled"}}})

    def record(self, at: datetime, change: dict[str, Any]) -> None:
        self.db.execute("select record_change(%s, %s, %s, %s)", [self.user, at, Jsonb(change), at])

    def use(self, quantity: str, at: datetime, key: str) -> str:
        event = UsageEvent(self.user, "storage", Decimal(quantity), key)
        (verdict,) = accept(self.db, [event], rules=RULES, now=at)
        return verdict.code or verdict.status


@pytest.fixture
def rounds(db: Database) -> Rounds:
    return Rounds(db)


def days(number: float) -> timedelta:
    return timedelta(days=number)


class TestUnbilled:
    """What Commet does not bill of a trial or a free plan is kept here."""

    def test_a_guess_about_a_trial(self, db: Database) -> None:
        """The first paid month begins in a month of a long trial that was opened by the clock."""
        user = add_user(db, "usr_ana")
        db.execute(
            "insert into subscriptions (id, user_id, status, plan_id, billing_interval,"
            " trial_ends_at, created_at, changed_at)"
            " values ('sub_1', %s, 'trialing', 'p', 'monthly', %s, now(), now())",
            [user, BEGIN + days(45)],
        )
        period = "select record_period(%s, 'sub_1', 'p', false, %s, %s, %s)"
        db.execute(period, [user, BEGIN, END, BEGIN])
        db.execute("select roll_over_periods(%s, %s, '{trialing}')", [[user], END])
        trials = "select array_agg(is_trial order by id) from usage_period"
        assert db.value(trials) == [True, True]
        db.execute("update subscriptions set status = 'active'")
        start = BEGIN + days(45)
        db.execute(period, [user, start, start + days(30), start])
        assert db.value(trials) == [True, True, False]

    def test_opened_again(self, rounds: Rounds) -> None:
        """What was withheld when a free plan seemed to end is delivered once it goes on."""
        first = rounds.begin(BEGIN)
        assert rounds.use("3", BEGIN + days(1), "a") == "accepted"
        rounds.end(first, BEGIN + days(2))
        rounds.number = 0
        assert claim(rounds.db, now=BEGIN + days(2), interval=timedelta()) == 0
        rounds.begin(BEGIN)
        rounds.db.execute("update usage_period set closed_at = null")
        assert claim(rounds.db, now=BEGIN + days(2), interval=timedelta()) == 1


class TestFree:
    def test_what_was_used_before(self, rounds: Rounds) -> None:
        """It lowers what is left, is shown beside it, and is not delivered again."""
        first = rounds.begin(BEGIN)
        assert rounds.use("3", BEGIN + days(1), "a") == "accepted"
        rounds.end(first, BEGIN + days(2))
        now = BEGIN + days(3)
        rounds.begin(now, ends=now + days(30))
        assert rounds.use("3", now, "b") == "limit_reached"
        assert rounds.use("1", now, "c") == "accepted"
        (shown,) = usage_of_user(rounds.db, user_id=rounds.user, currency="usd", now=now)
        assert [shown.used, shown.used_before, shown.remaining] == [1, 3, 1]
        assert [day.quantity for day in shown.daily] == [1]
        found = check(
            rounds.db, user_id=rounds.user, feature="storage", quantity=Decimal(2), rules=RULES,
            now=now,
        )  # fmt: skip
        assert (found.allowed, found.remaining, found.code) == (False, Decimal(1), "limit_reached")
        claim(rounds.db, now=now, interval=timedelta())
        sent = rounds.db.all("select period, quantity from usage_delivery order by period")
        assert [row["quantity"] for row in sent] == [1]  # a free plan that was left sends nothing

    def test_a_chain(self, rounds: Rounds) -> None:
        """Each round counts, until its own period would have ended."""
        for number, quantity in enumerate(("2", "2", "1")):
            begins = BEGIN + days(5 * number)
            sub = rounds.begin(begins, ends=begins + days(30))
            assert rounds.use(quantity, begins + days(1), f"k{number}") == "accepted"
            rounds.end(sub, begins + days(2))
        begins = BEGIN + days(20)
        rounds.begin(begins, ends=begins + days(30))
        assert rounds.use("1", begins, "x") == "limit_reached"
        later = BEGIN + days(30)  # the first round would have ended now
        assert rounds.use("3", later, "x") == "limit_reached"
        assert rounds.use("2", later, "x") == "accepted"

    def test_after_its_end_it_is_whole_again(self, rounds: Rounds) -> None:
        """A free period that ended in its normal way takes nothing away."""
        first = rounds.begin(BEGIN)
        assert rounds.use("5", BEGIN + days(1), "a") == "accepted"
        rounds.end(first, END)
        rounds.begin(END, ends=END + days(30))
        assert rounds.use("5", END, "b") == "accepted"

    def test_through_a_paid_plan(self, rounds: Rounds) -> None:
        """Free, paid, and free again within the month."""
        first = rounds.begin(BEGIN)
        assert rounds.use("4", BEGIN + days(1), "a") == "accepted"
        rounds.end(first, BEGIN + days(2))
        paid = rounds.begin(BEGIN + days(3), free=False, ends=BEGIN + days(33), included="100")
        assert rounds.use("100", BEGIN + days(4), "b") == "accepted"
        rounds.end(paid, BEGIN + days(5))
        rounds.begin(BEGIN + days(6), ends=BEGIN + days(36))
        assert rounds.use("2", BEGIN + days(6), "c") == "limit_reached"
        assert rounds.use("1", BEGIN + days(6), "d") == "accepted"

    def test_a_change_of_plan_and_back(self, rounds: Rounds) -> None:
        """The same subscription may be free, paid and free."""
        sub = rounds.begin(BEGIN)
        assert rounds.use("5", BEGIN + days(1), "a") == "accepted"
        for begins, interval, plan in (
            (BEGIN + days(2), "monthly", "pln_pro"),
            (BEGIN + days(4), None, "pln_free"),
        ):
            known = {"status": "active", "plan_id": plan, "billing_interval": interval}
            rounds.record(begins, {
                "subscription": {"id": sub, "known": known},
                "features": [FEATURE],
                "period": {"subscription": sub, "start": begins.isoformat(),
                           "end": (begins + days(30)).isoformat()},
            })  # fmt: skip
        assert rounds.use("1", BEGIN + days(5), "b") == "limit_reached"

    def test_usage_that_is_taken_back(self, rounds: Rounds) -> None:
        """What was used before is read from its own total, corrections included."""
        first = rounds.begin(BEGIN)
        assert rounds.use("5", BEGIN + days(1), "a") == "accepted"
        rounds.end(first, BEGIN + days(2))
        now = BEGIN + days(3)
        rounds.begin(now, ends=now + days(30))
        assert rounds.use("1", now, "b") == "limit_reached"
        rounds.db.execute("update usage_total set total = 4")
        assert rounds.use("1", now, "b") == "accepted"

    def test_by_many_at_once(self, rounds: Rounds, database_url: str) -> None:
        """Leaving, coming back and using at the same time gives no more than is included."""
        sub = rounds.begin(BEGIN)

        def use(number: int) -> int:
            with own_database(database_url) as own:
                event = UsageEvent(rounds.user, "storage", Decimal(1), f"k{number}")
                (verdict,) = accept(own, [event], rules=RULES, now=BEGIN + days(2))
                return int(verdict.status == "accepted")

        def turn(_: int) -> int:
            rounds.end(sub, BEGIN + days(1))
            rounds.begin(BEGIN + days(1), ends=BEGIN + days(31))
            return 0

        with ThreadPoolExecutor(8) as pool:
            many = [pool.submit(turn if n == 10 else use, n) for n in range(30)]
            accepted = sum(each.result() for each in many)
        assert accepted <= 5
        assert rounds.use("1", BEGIN + days(3), "last") in ("accepted", "limit_reached")
        assert rounds.db.value("select sum(total) from usage_total") <= 5


class TestTrial:
    def test_a_second_checkout_has_no_trial(self, person: Person) -> None:  # noqa: F811
        """Whoever had one is asked to pay at once."""
        made = httpx.post(
            f"{person.remote.base_url}/customers",
            json={"id": person.user.id, "email": person.user.email},
            headers={"x-api-key": person.remote.api_key},
        )
        assert made.status_code == 201, made.text
        begun = httpx.post(
            f"{person.remote.base_url}/subscriptions",
            json={"customerId": person.user.id, "planCode": "usage_pro",
                  "billingInterval": "monthly", "customTrialDays": 14},
            headers={"x-api-key": person.remote.api_key},
        ).json()  # fmt: skip
        person.remote.control.pay(begun["id"])
        mirror.doubt(person.db, person.user.id, lasting=timedelta(minutes=1))
        assert person.access.ask(person.user.id, soon())
        assert person.db.value("select status from subscriptions") == "trialing"
        assert mirror.had_trial(person.db, person.user.id)
        _cancel(person.remote, begun["id"])
        person.db.execute("update subscriptions set refresh_due = now()")
        person.time_passes()
        assert person.access.ask(person.user.id, soon())
        person.time_passes()
        person.checkout("usage_pro", "monthly")
        assert told(person.remote)["skipTrial"] is True

    def test_nobody_else_skips_it(self, person: Person) -> None:  # noqa: F811
        person.checkout("usage_pro", "monthly")
        assert "skipTrial" not in told(person.remote)

    @pytest.mark.parametrize(
        ("columns", "had"),
        [
            ({"status": "trialing"}, True),
            ({"status": "active", "trial_ends_at": END}, True),
            ({"status": "canceled", "trial_ends_at": END}, True),
            ({"status": "active"}, False),
            ({"status": "pending_payment", "trial_ends_at": END}, False),
        ],
    )
    def test_it_is_remembered(self, db: Database, columns: dict[str, Any], had: bool) -> None:  # noqa: FBT001
        """A trial that began, also after Commet stops telling it."""
        user = add_user(db)
        db.execute(
            "insert into subscriptions (id, user_id, status, trial_ends_at, created_at, changed_at)"
            " values ('sub_1', %s, %s, %s, now(), now())",
            [user, columns["status"], columns.get("trial_ends_at")],
        )
        db.execute("update subscriptions set status = 'canceled', trial_ends_at = null")
        assert mirror.had_trial(db, user) is had

    def test_an_attempt_begun_before(self, person: Person) -> None:  # noqa: F811
        """A checkout that offered a trial is begun anew, with another key, once a trial was had."""
        person.checkout("usage_pro", "monthly")
        person.db.execute(
            "insert into subscriptions (id, user_id, status, had_trial, created_at, changed_at)"
            " values ('sub_other', %s, 'canceled', true, now(), now())",
            [person.user.id],
        )
        person.checkout("usage_pro", "monthly")
        first, second = orders(person.remote)[-2:]
        assert ("skipTrial" in first, second["skipTrial"]) == (False, True)
        assert person.db.value("select attempt from checkout_attempt") == 2

    def test_one_that_nobody_heard_of(self, db: Database) -> None:
        """A trial that began and was left without a webhook: Commet is asked, and offers no other.

        A user who has an unpaid checkout and had no trial is offered one.
        """
        with standin(catalogue=CATALOGUE) as remote:
            commet = Commet(
                remote.base_url, lambda *, fresh=False: remote.api_key, live=False,  # noqa: ARG005
            )  # fmt: skip
            access = Access(db, SETTINGS, lambda: commet, wall_clock)
            user = add_user(db)
            one = Person(db, commet, remote, access, User(user, f"{user}@example.com", None))
            one.checkout("tryout", "monthly")
            remote.control.pay(one.checkout("tryout", "yearly"))
            assert "skipTrial" not in told(remote)
            begun = remote.control.state()["subscriptions"][0]
            assert begun["status"] == "trialing"
            _cancel(remote, begun["id"])
            one.checkout("tryout", "monthly")
            assert told(remote)["skipTrial"] is True
            assert remote.control.state()["subscriptions"][0]["trial_days"] == 0
            commet._http.close()


def told(remote: StandIn) -> dict[str, Any]:
    """The body of the last checkout."""
    return orders(remote)[-1]


def orders(remote: StandIn) -> list[dict[str, Any]]:
    """The bodies of all checkouts. The filter finds a part of the path: cancellations as well."""
    sent = remote.control.requests(method="POST", path="/subscriptions")
    return [each["body"] for each in sent if each["path"] == "/subscriptions"]
