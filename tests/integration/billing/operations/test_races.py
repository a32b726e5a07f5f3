"""Background work that meets other runs: rows that somebody is writing are left to them."""

from datetime import timedelta

from psycopg.types.json import Jsonb

from billing.database.connection import Database
from billing.operations import housekeeping, sweep
from tests.integration.billing.conftest import NOW, Subscribe, after
from tests.integration.billing.delivery.test_outbox import StandIn, run, use
from tests.integration.billing.operations.test_housekeeping import END, LATER, soon
from tests.integration.billing.racing import Race, passes_by

BUSY = "select from subscriptions for update"


class TestSweep:
    def test_comparing_waits_for_nobody(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """Who is writing a row has newer news of it than Commet's list."""
        subscribe()
        listed = [{"id": "sub_usr_ana", "customer": "usr_ana", "known": {"status": "paused"}}]

        def compare(mine: Database) -> str:
            (found,) = mine.all(sweep._sql["compare"], {"items": Jsonb(listed), "recheck": False})
            return str(found["outcome"])

        passes_by(race, db, BUSY, compare, nothing="same", all_of_it="differs")

    def test_marking_waits_for_nobody(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        subscribe()

        def marked(mine: Database) -> bool:
            values = {"after": "", "since": after(days=9999), "limit": 10}
            mine.execute(sweep._sql["mark_unseen"], values)
            return bool(mine.value("select refresh_due is not null from subscriptions"))

        passes_by(race, db, BUSY, marked, nothing=False, all_of_it=True)


class TestCompaction:
    def test_waits_for_nobody(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        """Two runs never merge the deliveries of one period at the same time."""
        subscribe(ends_at=NOW + timedelta(days=1))
        use(db, "1")
        run(db, StandIn())
        use(db, "2", now=END)
        run(db, StandIn(), now=END)
        passes_by(
            race, db, "select from usage_period for update",
            lambda mine: housekeeping.compact_deliveries(mine, before=LATER, deadline=soon()),
            nothing=0, all_of_it=1,
        )  # fmt: skip
