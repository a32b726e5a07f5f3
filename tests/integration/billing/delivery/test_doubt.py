"""Nothing becomes money, and nothing is sent again, while a delivery is in doubt or under way."""

from datetime import timedelta

import pytest

from billing.database.connection import Database
from billing.delivery.outbox import claim
from tests.integration.billing.conftest import NOW, Subscribe
from tests.integration.billing.delivery.test_outbox import END, StandIn, rows, run, use
from tests.integration.billing.delivery.test_races import close_drift, drifted


class TestADriftOfAPeriodThatIsOver:
    @pytest.mark.parametrize(
        "column", ["state = 'pending'", "compare_at = now()", "compare_at = now() + '1 d'"]
    )
    def test_is_no_money_while_a_delivery_is_in_doubt(
        self, db: Database, subscribe: Subscribe, column: str
    ) -> None:
        """What Commet counts too much may be that very delivery."""
        drifted(db, subscribe)
        db.execute(f"update usage_delivery set {column}")  # noqa: S608
        assert close_drift(db) == 0
        db.execute("update usage_delivery set state = 'sent', compare_at = null")
        assert close_drift(db) == 1
        assert [r["excess"] for r in rows(db) if r["kind"] == "credit"] == [2]

    @pytest.mark.parametrize(
        ("change", "back"),
        [
            ("update usage_total set fully_claimed = false",
             "update usage_total set fully_claimed = true"),
            ("update usage_period set closed_at = null",
             "update usage_period set closed_at = ends_at"),
        ],
    )  # fmt: skip
    def test_is_no_money_while_more_may_be_sent(
        self, db: Database, subscribe: Subscribe, change: str, back: str
    ) -> None:
        drifted(db, subscribe)
        db.execute(change)
        assert close_drift(db) == 0
        db.execute(back)
        assert close_drift(db) == 1


class TestACredit:
    @pytest.fixture
    def _too_much(self, db: Database, subscribe: Subscribe) -> None:
        """10 were sent and 4 taken back, in a period that is over."""
        subscribe()
        use(db, "10")
        run(db, StandIn())
        db.execute("update usage_total set total = 6")
        db.execute("update usage_period set closed_at = ends_at")

    def credited(self, db: Database) -> int:
        return int(db.value("select credit_closed_periods(10)"))

    @pytest.mark.usefixtures("_too_much")
    @pytest.mark.parametrize("until", ["'infinity'", "now() + interval '1 minute'"])
    def test_is_not_parked_while_the_total_is_replaced(self, db: Database, until: str) -> None:
        """Commet may be taking the very correction that the credit would pay for."""
        db.execute(f"update usage_total set claims_paused_until = {until}")  # noqa: S608
        assert self.credited(db) == 0
        db.execute("update usage_total set claims_paused_until = now()")
        assert self.credited(db) == 1

    @pytest.mark.usefixtures("_too_much")
    def test_is_not_parked_while_the_period_runs(self, db: Database) -> None:
        db.execute("update usage_period set closed_at = null")
        assert self.credited(db) == 0


def test_only_what_commet_certainly_refused_is_lowered(db: Database, subscribe: Subscribe) -> None:
    """An unconfirmed delivery may have been billed: of what is taken back a credit is parked."""
    subscribe()
    use(db, "10")
    assert claim(db, now=NOW, interval=timedelta(0)) == 1
    db.execute("update usage_delivery set state = 'parked', reason = 'unconfirmed'")
    db.execute("update usage_total set total = 6")
    db.execute("update usage_period set closed_at = ends_at")
    run(db, StandIn(), now=END)
    event, credit = rows(db)
    assert (event["quantity"], event["resolved_at"]) == (10, None)
    assert (credit["kind"], credit["excess"]) == ("credit", 4)
