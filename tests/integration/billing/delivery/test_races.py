"""Runs of deliveries that meet: none waits for another, and none undoes what another has done."""

from datetime import timedelta

import pytest

from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery import closing, comparing
from billing.delivery.outbox import Outcome, Result, claim, claim_of_user, lease, record, redrive
from billing.errors import CommetRefused
from tests.integration.billing.conftest import NOW, Subscribe
from tests.integration.billing.delivery.test_outbox import (
    END,
    StandIn,
    age,
    rows,
    run,
    use,
)
from tests.integration.billing.racing import Race, passes_by
from tests.integration.billing.usage.test_races import adjust

AT_ONCE = timedelta(0)
BUSY_TOTAL = "select from usage_total for update"
BUSY_DELIVERY = "select from usage_delivery for update"
OVER = "update usage_period set closed_at = ends_at"


def used_and_claimed(db: Database, subscribe: Subscribe, quantity: str = "10") -> None:
    subscribe()
    use(db, quantity)
    assert claim(db, now=NOW, interval=AT_ONCE) == 1


def park_unsendable(db: Database) -> int:
    """How many deliveries a run parks before it sends any."""
    soon = Deadline.after(20)
    return closing.park_unsendable(db, END, closing.Steps(), soon)


def begin_replacement(db: Database, reason: str) -> str:
    """What became of replacing Commet's total of the open period by ours."""
    return str(
        db.value(
            "select begin_replacement(period, feature, %s, '0', '1 min', %s) from usage_total",
            [NOW, reason],
        )
    )


class TestNobodyWaits:
    """Each step leaves out the rows that another run is busy with; a later run takes them."""

    def test_to_claim(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "1")
        work = lambda mine: claim(mine, now=NOW, interval=AT_ONCE)  # noqa: E731
        passes_by(race, db, BUSY_TOTAL, work, nothing=0, all_of_it=1)

    def test_to_mark_what_is_claimed(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        used_and_claimed(db, subscribe)
        db.execute(OVER)

        def marked(mine: Database) -> bool:
            claim(mine, now=NOW, interval=AT_ONCE)
            return bool(mine.value("select fully_claimed from usage_total"))

        passes_by(race, db, BUSY_TOTAL, marked, nothing=False, all_of_it=True)

    def test_to_lease(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        used_and_claimed(db, subscribe)
        work = lambda mine: len(lease(mine))  # noqa: E731
        passes_by(race, db, BUSY_DELIVERY, work, nothing=0, all_of_it=1)

    def test_to_claim_early(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "1")
        work = lambda mine: claim_of_user(mine, "usr_ana", now=NOW, interval=AT_ONCE)  # noqa: E731
        passes_by(race, db, BUSY_TOTAL, work, nothing=0, all_of_it=1)

    def test_to_see_whose_overage_is_due(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """A user who is being taken is not claimed early by another run, too."""
        used_and_claimed(db, subscribe)
        use(db, "1")
        db.execute("insert into overage_due (user_id, value) values ('usr_ana', 5)")
        work = lambda mine: claim(mine, now=NOW, interval=timedelta(minutes=5))  # noqa: E731
        busy = "select from overage_due for update"
        passes_by(race, db, busy, work, nothing=0, all_of_it=1)

    def test_to_lease_early_ones(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        used_and_claimed(db, subscribe)
        db.execute("update usage_delivery set early_until = now() + interval '1 hour'")
        work = lambda mine: len(lease(mine, early_limit=1))  # noqa: E731
        passes_by(race, db, BUSY_DELIVERY, work, nothing=0, all_of_it=1)

    def test_to_lease_those_of_a_user(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        used_and_claimed(db, subscribe)
        work = lambda mine: len(lease(mine, user_id="usr_ana"))  # noqa: E731
        passes_by(race, db, BUSY_DELIVERY, work, nothing=0, all_of_it=1)

    def test_to_park_what_is_a_day_old(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        used_and_claimed(db, subscribe)
        lease(db)
        age(db, timedelta(hours=24))
        passes_by(race, db, BUSY_DELIVERY, park_unsendable, nothing=0, all_of_it=1)

    def test_to_end_a_replacement(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        replacing(db, subscribe)
        passes_by(race, db, BUSY_DELIVERY, park_unsendable, nothing=0, all_of_it=1)

    def test_to_resume_claims(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        used_and_claimed(db, subscribe)
        db.execute(OVER)
        db.execute("update usage_total set claims_paused_until = 'infinity'")

        def paused(mine: Database) -> bool:
            closing.close(mine, END, AT_ONCE, closing.Steps(), Deadline.after(20))
            return bool(mine.value("select claims_paused_until is not null from usage_total"))

        passes_by(race, db, BUSY_TOTAL, paused, nothing=True, all_of_it=False)

    def test_to_credit(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        used_and_claimed(db, subscribe)
        db.execute("update usage_delivery set state = 'sent', billed_period = period")
        db.execute(OVER)
        db.execute("update usage_total set total = 4")
        work = lambda mine: mine.value("select credit_closed_periods(10)")  # noqa: E731
        passes_by(race, db, BUSY_TOTAL, work, nothing=0, all_of_it=1)

    @pytest.mark.parametrize("busy", [BUSY_TOTAL, "select from usage_drift for update"])
    def test_to_close_a_drift(
        self, race: Race, db: Database, subscribe: Subscribe, busy: str
    ) -> None:
        drifted(db, subscribe)
        passes_by(race, db, busy, close_drift, nothing=0, all_of_it=1)

    def test_to_redrive(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        used_and_claimed(db, subscribe)
        db.execute("update usage_delivery set state = 'parked', reason = 'feature_disabled'")
        passes_by(race, db, BUSY_DELIVERY, redrive, nothing=0, all_of_it=1)


def replacing(db: Database, subscribe: Subscribe) -> None:
    """10 were sent and 4 taken back; the replacement waits to be sent, and its period is over."""
    subscribe()
    use(db, "10")
    run(db, StandIn())
    db.execute("update usage_total set total = 6")
    assert begin_replacement(db, "correction") == "begun"


def drifted(db: Database, subscribe: Subscribe) -> None:
    """10 were sent and Commet counts 12, in a period that is over."""
    subscribe()
    use(db, "10")
    run(db, StandIn())
    db.execute(OVER)
    claim(db, now=END, interval=AT_ONCE)
    db.execute(
        "insert into usage_drift (period, feature, user_id, ours, theirs, found_at, checked_at)"
        " select period, feature, user_id, 10, 12, now(), now() from usage_delivery"
    )


def close_drift(db: Database) -> int:
    return int(db.value(comparing._sql["close_drift"], {"limit": 10}))


class TestWhatIsUnderWay:
    def test_a_correction_is_not_lost(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        """Of what is taken back at the moment the period is done with, a credit is parked."""
        subscribe()
        use(db, "10")
        use(db, "1", now=END)
        run(db, StandIn(), now=END)
        db.execute("update usage_total set fully_claimed = false")
        assert race.first(lambda mine: adjust(mine, "-4", occurred_at=NOW).code) is None
        other = race.second(lambda mine: claim(mine, now=END, interval=AT_ONCE))
        race.commit()
        assert other.answer == 0
        run(db, StandIn(), now=END)
        assert [row["excess"] for row in rows(db) if row["kind"] == "credit"] == [4]

    def test_an_answer_is_not_overwritten(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """Confirmed at the moment its key ends: sent, and not parked as unconfirmed."""
        used_and_claimed(db, subscribe)
        (delivery,) = lease(db)
        age(db, timedelta(hours=24))
        sent = [Result(delivery, Outcome.SENT)]
        race.first(lambda mine: record(mine, sent, now=NOW))
        other = race.second(park_unsendable)
        race.commit()
        assert other.answer == 0
        assert [(row["state"], row["compare_at"]) for row in rows(db)] == [("sent", None)]

    def test_a_replacement_that_is_being_sent_is_not_undone(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        replacing(db, subscribe)
        (delivery,) = race.first(lease)
        other = race.second(park_unsendable)
        race.commit()
        assert (delivery.kind, other.answer) == ("replacement", 0)
        assert [row["kind"] for row in rows(db)] == ["event", "replacement"]

    def test_one_credit_of_two_runs(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        used_and_claimed(db, subscribe)
        db.execute("update usage_delivery set state = 'sent', billed_period = period")
        db.execute(OVER)
        db.execute("update usage_total set total = 4")
        credit = "select credit_closed_periods(10)"
        assert race.first(lambda mine: mine.value(credit)) == 1
        other = race.second(lambda mine: mine.value(credit))
        race.commit()
        assert other.answer == 0
        assert db.one("select total, claimed from usage_total") == {"total": 4, "claimed": 4}

    def test_a_credit_while_its_placement_becomes_known(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """Parked without an amount at the moment in which the amount becomes known: it gets one."""
        used_and_claimed(db, subscribe)
        db.execute("update usage_delivery set state = 'sent', compare_at = now()")
        db.execute(OVER)
        db.execute("update usage_total set total = 4")
        assert race.first(lambda mine: mine.value("select credit_closed_periods(10)")) == 1
        place = "select place_delivery(period, feature, seq, period) from usage_delivery"
        other = race.second(lambda mine: mine.execute(f"{place} where kind = 'event'"))
        race.commit()
        assert other.answer is None
        (credit,) = (row for row in rows(db) if row["kind"] == "credit")
        assert (credit["excess"], credit["amount"]) == (6, 0)

    @pytest.mark.parametrize("claims_first", [True, False])
    def test_a_trial_that_is_closed_while_it_is_claimed(
        self, race: Race, db: Database, subscribe: Subscribe, *, claims_first: bool
    ) -> None:
        """Whoever is first: nothing of it is sent any more."""
        subscribe(status="trialing")
        use(db, "10")
        steps = [
            lambda mine: claim(mine, now=NOW, interval=AT_ONCE),
            lambda mine: mine.execute("update usage_period set closed_at = %s", [NOW]),
        ]
        race.first(steps[0] if claims_first else steps[1])
        other = race.second(steps[1] if claims_first else steps[0])
        race.commit()
        assert not other.answer
        total = db.one("select total, claimed, withheld from usage_total")
        assert (total, rows(db)) == ({"total": 10, "claimed": 0, "withheld": 10}, [])
        assert claim(db, now=NOW, interval=AT_ONCE) == 0

    def test_one_credit_of_a_drift(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        drifted(db, subscribe)
        assert race.first(close_drift) == 1
        other = race.second(close_drift)
        race.commit()
        assert other.answer == 0
        assert [row["excess"] for row in rows(db) if row["kind"] == "credit"] == [2]


class TestRedrivingAndReplacing:
    """8 were sent and 10 refused: nobody sends these again while the total is being replaced."""

    @pytest.fixture
    def _refused(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "8")
        run(db, StandIn())
        use(db, "10")
        claim(db, now=NOW, interval=AT_ONCE)
        refusal = CommetRefused("included_limit_reached", commet_status=402)
        assert run(db, StandIn([refusal])).parked == 1

    @pytest.mark.usefixtures("_refused")
    def test_a_replacement_waits_for_what_is_sent_again(self, race: Race) -> None:
        assert race.first(redrive) == 1
        other = race.second(lambda mine: begin_replacement(mine, "drift"))
        race.commit()
        assert other.answer == "waiting"

    @pytest.mark.usefixtures("_refused")
    def test_nothing_is_sent_again_while_a_total_is_replaced(
        self, race: Race, db: Database
    ) -> None:
        assert race.first(lambda mine: begin_replacement(mine, "drift")) == "begun"
        other = race.second(redrive)
        race.commit()
        assert other.answer == 0
        assert [row["state"] for row in rows(db)] == ["sent", "parked", "pending"]
