"""What becomes of a guessed period when Commet names another: nothing is free, or billed twice."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.database.connection import Database
from billing.delivery.outbox import claim
from billing.usage.accepting import UsageEvent, accept
from billing.usage.corrections import Correction, correct
from billing.usage.rules import Rules
from tests.integration.billing.conftest import RULES, STATUSES, add_user
from tests.integration.billing.signed import body, metered, state
from tests.integration.billing.usage.test_periods import at, capped, learn, seen, use

CEILING = Rules(STATUSES, ceilings={"usd": Decimal(10)}, at_once={"usd": None})
SEPTEMBER = ("2026-09-01", "2026-10-01")


def minute(text: str) -> float:
    """The moment as the signed bodies count it: in minutes since September began."""
    return (at(text) - at("2026-09-01")).total_seconds() / 60


def reported(db: Database, moment: str, period: tuple[str, str], **about: Any) -> None:
    """Commet reports the user's subscription and a period, at this moment."""
    change = state("usr_ana", "sub_1", minute(moment), features=[capped(*period)], **about)
    learn(db, change, now=moment)


def told(db: Database, kind: str, moment: str, status: str, **about: str) -> None:
    """Commet sends one event about the subscription."""
    fields = {"subscriptionId": "sub_1", "customerId": "usr_ana", "status": status}
    learn(db, body(kind, minute(moment), **fields, **about), now=moment)


def october_is_guessed(db: Database) -> None:
    add_user(db, "usr_ana")
    reported(db, "2026-09-01", SEPTEMBER)
    assert use(db, "60", now="2026-10-02") == "accepted"


def spend(db: Database, quantity: str, moment: str) -> str:
    event = UsageEvent("usr_ana", "storage", Decimal(quantity), f"spend-{moment}")
    (verdict,) = accept(db, [event], rules=CEILING, now=at(moment))
    return verdict.code or verdict.status


def sold(start: str, end: str) -> dict[str, Any]:
    """`storage`, 100 included, and overage at 0.10."""
    return metered(period=(f"{start}T00:00:00Z", f"{end}T00:00:00Z"))


def thresholds_told(db: Database, measure: str) -> list[str]:
    rows = db.all(
        "select data->'threshold'->>'percent' as percent from outgoing_event"
        " where type = %s order by entry",
        [f"{measure}.threshold_reached"],
    )
    return [row["percent"] for row in rows]


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "guessed"])
class TestReactivated:
    """A canceled subscription that is reactivated is charged anew, so its month is a new one."""

    def tale(self, db: Database, *, is_known: bool) -> None:
        october_is_guessed(db)
        if is_known:
            reported(db, "2026-10-02T01:00", ("2026-10-01", "2026-11-01"))
        claim(db, now=at("2026-10-02T02:00"), interval=timedelta(0))
        db.execute(
            "update usage_delivery set state = 'sent', sent_at = %(at)s, answered_at = %(at)s,"
            " billed_period = period",
            {"at": at("2026-10-02T02:00")},
        )
        told(db, "subscription.canceled", "2026-10-02T12:00", "canceled")
        reported(db, "2026-10-20T09:00", ("2026-10-20", "2026-11-20"))

    def test_has_a_whole_month(self, db: Database, *, is_known: bool) -> None:
        self.tale(db, is_known=is_known)
        assert seen(db, now="2026-10-20T10:00") == ("2026-10-20", "2026-11-20", Decimal(0))
        assert use(db, "100", now="2026-10-20T10:00") == "accepted"

    def test_usage_of_the_gap(self, db: Database, *, is_known: bool) -> None:
        self.tale(db, is_known=is_known)
        event = UsageEvent("usr_ana", "storage", Decimal(1), "gap", at("2026-10-10"))
        (verdict,) = accept(db, [event], rules=RULES, now=at("2026-10-20T10:00"))
        assert verdict.code == "before_subscription"

    def test_earlier_deliveries_stay_where_commet_booked_them(
        self, db: Database, *, is_known: bool
    ) -> None:
        self.tale(db, is_known=is_known)
        placed = db.all(
            "select p.starts_at, d.quantity from usage_delivery d"
            " join usage_period p on p.id = d.billed_period"
        )
        assert placed == [{"starts_at": at("2026-10-01"), "quantity": Decimal(60)}]


def test_a_guess_of_a_trial_that_was_left_is_no_paid_month(db: Database) -> None:
    add_user(db, "usr_ana")
    told(
        db, "trial.started", "2026-09-01", "trialing", planId="pln_pro", planName="Pro",
        trialEndsAt="2026-10-15T10:00:00Z",
    )  # fmt: skip
    reported(db, "2026-09-01", SEPTEMBER, status="trialing")
    assert use(db, "70", now="2026-10-02") == "accepted"
    told(db, "subscription.canceled", "2026-10-02T12:00", "canceled")
    reported(db, "2026-10-20T09:00", ("2026-10-20", "2026-11-20"))
    assert seen(db, now="2026-10-20T10:00") == ("2026-10-20", "2026-11-20", Decimal(0))


@pytest.mark.parametrize("is_used_between", [False, True], ids=["at-once", "used-between"])
class TestResumedAfterAPauseOverTheEndOfAMonth:
    """Commet keeps the month's start and moves its end. Usage between its two webhooks makes us
    guess the month that would have followed.
    """

    def tale(self, db: Database, feature: dict[str, Any], used: str, *, between: bool) -> None:
        add_user(db, "usr_ana")
        learn(db, state("usr_ana", "sub_1", 1, features=[feature]), now="2026-09-01")
        assert spend(db, used, "2026-09-09") == "accepted"
        told(db, "subscription.paused", "2026-09-10", "paused")
        told(db, "subscription.resumed", "2026-10-05", "active")
        if between:
            assert spend(db, "0.000001", "2026-10-05T00:00:01") == "accepted"
        feature["consumption"]["period"]["end"] = "2026-10-26T00:00:00Z"
        longer = state("usr_ana", "sub_1", minute("2026-10-05T00:00:02"), features=[feature])
        learn(db, longer, now="2026-10-05T00:00:02")

    def test_no_second_allowance(self, db: Database, *, is_used_between: bool) -> None:
        self.tale(db, capped(*SEPTEMBER), "100", between=is_used_between)
        assert use(db, "1", now="2026-10-05T00:01") == "limit_reached"

    def test_the_ceiling_does_not_start_anew(self, db: Database, *, is_used_between: bool) -> None:
        self.tale(db, sold(*SEPTEMBER), "200", between=is_used_between)
        assert spend(db, "1", "2026-10-05T00:01") == "spend_limit_reached"

    def test_thresholds_are_told_once(self, db: Database, *, is_used_between: bool) -> None:
        self.tale(db, sold(*SEPTEMBER), "100", between=is_used_between)
        assert use(db, "90", now="2026-10-05T00:01") == "accepted"
        assert thresholds_told(db, "usage") == ["80", "100"]


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "open"])
def test_a_subscription_that_moves_to_a_user_whose_own_month_began_later(
    db: Database, *, is_closed: bool
) -> None:
    for user in ("usr_ana", "usr_ben"):
        add_user(db, user)
    theirs = state("usr_ben", "sub_1", 1, features=[capped(*SEPTEMBER)])
    own = [capped("2026-09-10", "2026-10-10")]
    learn(db, theirs, now="2026-09-01")
    learn(db, state("usr_ana", "sub_2", minute("2026-09-10"), features=own), now="2026-09-10")
    fields = {"subscriptionId": "sub_2", "customerId": "usr_ana"}
    if is_closed:
        canceled = body("subscription.canceled", minute("2026-09-12"), **fields)
        learn(db, canceled, now="2026-09-12")
    else:
        canceled = body("subscription.canceled", minute("2026-09-13"), **fields)
        learn(db, canceled, now="2026-09-13")
    reported(db, "2026-09-13T00:01", SEPTEMBER)
    assert use(db, "1", now="2026-09-15") == "accepted"
    assert seen(db, now="2026-09-15")[:2] == SEPTEMBER


class TestTrials:
    def test_what_was_used_in_the_guess_is_not_billed(self, db: Database) -> None:
        """A trial of 30 days from 1 February. Commet is silent from 1 to 3 March."""
        add_user(db, "usr_ana")
        told(
            db, "trial.started", "2026-02-01T10:00", "trialing", planId="pln_pro", planName="Pro",
            trialEndsAt="2026-03-03T10:00:00Z",
        )  # fmt: skip
        reported(db, "2026-02-01T10:00", ("2026-02-01", "2026-03-01"), status="trialing")
        assert use(db, "90", now="2026-02-10") == "accepted"
        assert use(db, "70", now="2026-03-02") == "accepted"
        reported(db, "2026-03-03T10:00", ("2026-03-03", "2026-04-03"))
        assert use(db, "100", now="2026-03-04") == "accepted"
        claim(db, now=at("2026-03-04T01:00"), interval=timedelta(0))
        assert db.value("select sum(quantity) from usage_delivery") == 100

    def test_after_a_trial_of_a_week_the_guess_is_a_month(self, db: Database) -> None:
        add_user(db, "usr_ana")
        told(
            db, "trial.started", "2026-09-01", "trialing", planId="pln_pro", planName="Pro",
            trialEndsAt="2026-09-08T00:00:00Z",
        )  # fmt: skip
        reported(db, "2026-09-01", ("2026-09-01", "2026-09-08"), status="trialing")
        told(
            db, "subscription.activated", "2026-09-08", "active",
            currentPeriodStart="2026-09-08T00:00:00Z", currentPeriodEnd="2026-10-08T00:00:00Z",
        )  # fmt: skip
        assert use(db, "100", now="2026-09-09") == "accepted"
        assert seen(db, now="2026-09-16") == ("2026-09-08", "2026-10-08", Decimal(100))
        assert use(db, "1", now="2026-09-16") == "limit_reached"


@pytest.mark.parametrize("is_over", [True, False], ids=["over", "live"])
def test_a_spend_threshold_is_told_once_if_commet_lists_no_feature_for_a_moment(
    db: Database, *, is_over: bool
) -> None:
    add_user(db, "usr_ana")
    feature = [sold(*SEPTEMBER)]
    learn(db, state("usr_ana", "sub_1", 1, features=feature), now="2026-09-01T00:01")
    assert spend(db, "185", "2026-09-01T00:02") == "accepted"
    none = state("usr_ana", None, 3) if is_over else state("usr_ana", "sub_1", 3, features=[])
    learn(db, none, now="2026-09-01T00:03")
    learn(db, state("usr_ana", "sub_1", 5, features=feature), now="2026-09-01T00:05")
    assert spend(db, "1", "2026-09-01T00:06") == "accepted"
    assert thresholds_told(db, "spend") == ["80"]


def test_a_correction_by_time_finds_the_month_that_contains_the_time(db: Database) -> None:
    """An upgrade of 20 September is heard of in October. The guess of October began later than the
    month that runs.
    """
    october_is_guessed(db)
    reported(db, "2026-10-06", ("2026-09-20", "2026-10-20"), plan="pln_max")
    assert use(db, "5", now="2026-10-10") == "accepted"
    wrong = Correction(
        "usr_ana", "storage", Decimal(-1), "fix-1", "counted twice", occurred_at=at("2026-10-10")
    )
    assert correct(db, wrong, author="ann", rules=RULES, now=at("2026-10-11")).code is None
    assert seen(db, now="2026-10-11") == ("2026-09-20", "2026-10-20", Decimal(4))
