"""Which thresholds are told, and how often, on a real Postgres."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from threading import Barrier
from typing import Any

import jsonschema_rs
import pytest
from psycopg.types.json import Jsonb

from billing.database import rounds
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import Conflict, InvalidRequest, NotFound
from billing.usage import thresholds
from billing.usage.accepting import UsageEvent, accept, check
from billing.usage.corrections import Correction, correct
from billing.usage.reservations import Reservation, confirm, reserve
from billing.usage.rules import Rules
from billing.usage.spending import set_limit
from billing.usage.thresholds import Level, Refusal, Threshold
from tests.integration.billing.conftest import (
    NOW,
    STATUSES,
    Subscribe,
    grant_feature,
    own_database,
)
from tests.integration.billing.racing import Race
from tests.unit.cloudformation import ROOT

# 100 are included, each one beyond costs 0.10, and 10.00 may be spent: 200 units in all.
RULES = Rules(STATUSES, ceilings={"usd": Decimal(10)}, at_once={"usd": None})
SCHEMAS = ROOT / "docs" / "events"
END = datetime.fromisoformat("2026-10-01T00:00:00Z")

_keys = count()


def event(
    quantity: str, feature: str = "storage", *, user: str = "usr_ana", key: str | None = None
) -> UsageEvent:
    return UsageEvent(user, feature, Decimal(quantity), key or f"key-{next(_keys)}")


def take(db: Database, *events: UsageEvent, rules: Rules = RULES, now: datetime = NOW) -> list[str]:
    """What became of each event."""
    return [v.code or v.status for v in accept(db, events, rules=rules, now=now)]


def use(db: Database, quantity: str, feature: str = "storage", *, now: datetime = NOW) -> None:
    assert take(db, event(quantity, feature), now=now) == ["accepted"]


def fix(db: Database, quantity: str, feature: str = "storage") -> None:
    correction = Correction("usr_ana", feature, Decimal(quantity), f"key-{next(_keys)}", "test")
    assert correct(db, correction, author="me", rules=RULES, now=NOW).code is None


def hold(db: Database, quantity: str) -> Reservation:
    found = reserve(db, event(quantity), rules=RULES, now=NOW).reservation
    assert found
    return found


def told(db: Database, *, user: str = "usr_ana") -> list[dict[str, Any]]:
    """What was told about a user since the last look, oldest first."""
    rows = db.all(
        "with told as (delete from outgoing_event where user_id = %s returning *)"
        " select type, data from told where type like '%%.threshold_reached'"
        " or type like '%%.limit_reached' order by entry",
        [user],
    )
    for row in rows:
        schema = json.loads((SCHEMAS / f"{row['type']}.json").read_text(encoding="utf-8"))
        of_data = schema["properties"]["data"] | {"$defs": schema.get("$defs", {})}
        jsonschema_rs.validator_for(of_data, validate_formats=True).validate(row["data"])
    return [{"type": row["type"], **row["data"]} for row in rows]


def marks(db: Database, *, user: str = "usr_ana") -> list[str]:
    """The thresholds told since the last look, as `feature percent%` or `feature amount`."""
    return [
        " ".join(
            [
                each.get("feature", "spend"),
                f"{each['threshold']['percent']}%"
                if "percent" in each["threshold"]
                else each["threshold"]["amount"],
            ]
        )
        for each in told(db, user=user)
    ]


def percent(value: int, feature: str | None = None, measure: Any = "usage") -> Level:
    return Level(measure, feature, value, None)


def amount(value: str, feature: str | None = None, measure: Any = "usage") -> Level:
    return Level(measure, feature, None, Decimal(value))


def add(db: Database, level: Level, *, by: Any = "user", user: str | None = "usr_ana") -> Threshold:
    found, _ = thresholds.add(db, user, level, set_by=by, rules=RULES, now=NOW)
    return found


def entitle(db: Database, **columns: Any) -> None:
    """Commet says what the user has now: `record_change`, as a webhook has it."""
    feature = {
        "feature": "storage", "name": "Storage", "unit": "GB", "type": "usage", "model": "metered",
        "allowed": True, "included": "100", "unlimited": False, "overage_enabled": True,
        "unit_price": "1000", "currency": "usd",
    } | columns  # fmt: skip
    db.execute(
        "select record_change('usr_ana', %s, %s, %s)",
        [NOW + timedelta(seconds=next(_keys)), Jsonb({"features": [feature]}), NOW],
    )


class TestUsage:
    def test_the_defaults(self, db: Database, subscribe: Subscribe) -> None:
        """80 and 100 percent of what is included, each once, with what was used."""
        subscribe(overage_enabled=False)
        use(db, "79")
        assert told(db) == []
        use(db, "1.5")
        (reached,) = told(db)
        assert reached == {
            "type": "usage.threshold_reached",
            "feature": "storage",
            "threshold": {"percent": "80"},
            "used": "80.5",
            "included": "100",
            "period_start": "2026-09-01T00:00:00.000Z",
            "period_end": "2026-10-01T00:00:00.000Z",
        }
        use(db, "1")
        assert told(db) == []
        use(db, "18.5")
        assert marks(db) == ["storage 100%"]

    def test_both_at_once(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "150")
        assert marks(db) == ["storage 80%", "storage 100%"]

    def test_of_each_feature_and_user_in_a_batch(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        subscribe("usr_bob")
        grant_feature(db, "usr_ana", "tokens")
        batch = [event("50"), event("85", "tokens"), event("40"), event("81", user="usr_bob")]
        assert take(db, *batch) == ["accepted"] * 4
        assert sorted(marks(db)) == ["storage 80%", "tokens 80%"]
        assert marks(db, user="usr_bob") == ["storage 80%"]

    def test_a_confirmed_reservation(self, db: Database, subscribe: Subscribe) -> None:
        """What is held is not used yet."""
        subscribe()
        held = hold(db, "90")
        use(db, "1")
        assert told(db) == []
        assert confirm(db, held, Decimal(85), rules=RULES, now=NOW).code is None
        assert marks(db) == ["storage 80%"]

    def test_again_after_a_correction(self, db: Database, subscribe: Subscribe) -> None:
        """Less is used than the threshold, and then as much again."""
        subscribe()
        use(db, "85")
        assert marks(db) == ["storage 80%"]
        fix(db, "-4")
        use(db, "2")
        assert marks(db) == []
        fix(db, "-10")
        use(db, "1")
        fix(db, "10")
        assert marks(db) == ["storage 80%"]

    def test_again_after_more_is_included(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "85")
        assert marks(db) == ["storage 80%"]
        entitle(db, included="1000")
        use(db, "600")
        assert marks(db) == []
        use(db, "120")
        assert marks(db) == ["storage 80%"]

    def test_at_once_after_less_is_included(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "60")
        entitle(db, included="70")
        assert marks(db) == ["storage 80%"]

    def test_in_each_period(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "85")
        use(db, "85", now=END)
        assert marks(db) == ["storage 80%"] * 2

    @pytest.mark.parametrize("terms", [{"unlimited": True}, {"included": Decimal(0)}])
    def test_nothing_to_take_a_percentage_of(
        self, db: Database, subscribe: Subscribe, terms: dict[str, Any]
    ) -> None:
        """An amount is told all the same."""
        subscribe(**terms)
        add(db, amount("30", "storage"))
        use(db, "70")
        assert marks(db) == ["storage 30"]

    def test_what_commet_booked_here_counts(self, db: Database, subscribe: Subscribe) -> None:
        """Usage of the period before uses up what is included."""
        subscribe()
        use(db, "10")
        db.execute("update usage_total set carried = 50")
        use(db, "19")
        assert marks(db) == []
        use(db, "1")
        assert marks(db) == ["storage 80%"]

    def test_a_closed_period_tells_nothing(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "70")
        use(db, "1", now=END)
        correction = Correction("usr_ana", "storage", Decimal(-1), "fix", "test", occurred_at=NOW)
        assert correct(db, correction, author="me", rules=RULES, now=END).code is None
        assert told(db) == []

    def test_nothing_is_looked_at_while_none_is_near(
        self, db: Database, subscribe: Subscribe
    ) -> None:
        """The total says from which use on."""
        subscribe()
        use(db, "10")
        assert db.value("select look_at from usage_total") == 80
        db.execute("update usage_total set look_at = 95")
        use(db, "80")
        assert marks(db) == []
        add(db, percent(1, "storage"), by="product")
        use(db, "1")
        assert db.value("select look_at from usage_total") is None

    def test_a_check_tells_nothing(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        check(db, user_id="usr_ana", feature="storage", quantity=Decimal(90), rules=RULES, now=NOW)
        assert told(db) == []


class TestWhichApply:
    @pytest.fixture(autouse=True)
    def two_features(self, db: Database, subscribe: Subscribe) -> None:
        subscribe(overage_enabled=False)
        grant_feature(db, "usr_ana", "tokens", overage_enabled=False)

    def reached(self, db: Database) -> list[str]:
        """All marks at what is included of both features."""
        db.execute("delete from threshold_reached")
        told(db)
        db.execute("update usage_total set look_at = 0")
        fix(db, "-1")
        fix(db, "1")
        fix(db, "-1", "tokens")
        fix(db, "1", "tokens")
        return marks(db)

    def test_the_most_specific(self, db: Database) -> None:
        """The operator's, of a feature or all; the product's for a user, of all or a feature."""
        use(db, "100")
        use(db, "100", "tokens")
        every = partial(add, db, by="operator", user=None)
        every(percent(10))
        assert set(self.reached(db)) == {"storage 10%", "tokens 10%"}
        every(percent(20, "storage"))
        assert set(self.reached(db)) == {"storage 20%", "tokens 10%"}
        add(db, percent(30), by="product")
        assert set(self.reached(db)) == {"storage 30%", "tokens 30%"}
        add(db, percent(40, "tokens"), by="product")
        assert set(self.reached(db)) == {"storage 30%", "tokens 40%"}
        shown = [(t.feature, t.percent, t.set_by) for t in thresholds.applying_to(db, "usr_ana")]
        assert [each for each in shown if each[2] != "default"] == [
            (None, 30, "product"),
            ("tokens", 40, "product"),
        ]

    def test_own_ones_hide_none(self, db: Database) -> None:
        use(db, "100")
        use(db, "1", "tokens")
        told(db)
        add(db, percent(50))
        add(db, amount("60", "storage"))
        assert set(self.reached(db)) == {
            "storage 50%", "storage 60", "storage 80%", "storage 100%",
        }  # fmt: skip

    def test_of_somebody_else(self, db: Database, subscribe: Subscribe) -> None:
        subscribe("usr_bob")
        add(db, percent(10), user="usr_bob")
        add(db, percent(20), user="usr_bob", by="product")
        use(db, "85")
        assert marks(db) == ["storage 80%"]


class TestAdding:
    def test_what_is_reached_is_told_at_once(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "50")
        added = add(db, percent(40))
        assert marks(db) == ["storage 40%"]
        use(db, "1")
        assert marks(db) == []
        thresholds.remove(db, str(added.id), user_id="usr_ana", rules=RULES, now=NOW)
        assert thresholds.of(db, "usr_ana") == []
        add(db, percent(40))
        assert marks(db) == []

    def test_an_equal_one(self, db: Database, subscribe: Subscribe) -> None:
        """There is one of each; the first is answered."""
        subscribe()
        first = thresholds.add(db, "usr_ana", percent(40), set_by="user", rules=RULES, now=NOW)
        again = thresholds.add(db, "usr_ana", percent(40), set_by="user", rules=RULES, now=END)
        assert (again[0], first[1], again[1]) == (first[0], True, False)

    def test_too_many(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        for value in range(1, 21):
            add(db, percent(value))
        with pytest.raises(Conflict) as refused:
            add(db, percent(50))
        assert refused.value.code == "too_many_thresholds"
        assert add(db, percent(50), by="product").set_by == "product"

    @pytest.mark.parametrize(
        ("level", "code"),
        [
            (Level("usage", None, None, None), "one_of_two"),
            (Level("usage", "storage", 50, Decimal(1)), "one_of_two"),
            (Level("spend", "storage", 50, None), "not_for_spend"),
            (Level("usage", None, None, Decimal(1)), "missing"),
        ],
    )
    def test_one_without_a_meaning(self, db: Database, level: Level, code: str) -> None:
        with pytest.raises(InvalidRequest) as refused:
            add(db, level)
        assert [each.code for each in refused.value.errors] == [code]

    def test_for_an_unknown_user(self, db: Database) -> None:
        with pytest.raises(NotFound) as refused:
            add(db, percent(50), user="usr_none")
        assert refused.value.code == "unknown_user"

    def test_removing_what_is_not_ones_own(self, db: Database, subscribe: Subscribe) -> None:
        """A user removes own ones, a product those of products and operators."""
        subscribe()
        subscribe("usr_bob")
        remove = partial(thresholds.remove, db, rules=RULES, now=NOW)
        mine, theirs = add(db, percent(1)), add(db, percent(2), by="product")
        for threshold, user in ((mine, "usr_bob"), (mine, None), (theirs, "usr_ana")):
            with pytest.raises(NotFound):
                remove(str(threshold.id), user_id=user)
        remove(str(mine.id), user_id="usr_ana")
        remove(str(theirs.id), user_id=None)
        with pytest.raises(NotFound):
            remove(str(mine.id), user_id="usr_ana")


class TestChanging:
    def change(self, db: Database, threshold: Threshold, value: int, **of: Any) -> Threshold:
        return thresholds.change(
            db,
            str(threshold.id),
            percent=value,
            amount=None,
            rules=RULES,
            now=NOW,
            **({"user_id": "usr_ana"} | of),
        )

    def test_what_is_reached_is_told_at_once(self, db: Database, subscribe: Subscribe) -> None:
        """Once, also if the threshold is changed back."""
        subscribe()
        use(db, "50")
        added = add(db, percent(60))
        assert self.change(db, added, 40) == replace(added, percent=40)
        assert marks(db) == ["storage 40%"]
        self.change(db, added, 60)
        self.change(db, added, 40)
        assert marks(db) == []
        self.change(db, added, 60)
        use(db, "10")
        assert marks(db) == ["storage 60%"]

    def test_what_is_spent_is_told_at_once(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        use(db, "150")
        added = add(db, percent(70, measure="spend"))
        told(db)
        self.change(db, added, 40)
        assert marks(db) == ["spend 40%"]

    def test_of_all_users(self, db: Database, subscribe: Subscribe) -> None:
        """The next run of reconcile tells what is reached."""
        subscribe()
        use(db, "50")
        added = add(db, percent(60), by="operator", user=None)
        follow = partial(thresholds.follow, db, RULES, lambda: NOW)
        follow(Deadline.after(10))
        self.change(db, added, 40, user_id=None)
        assert marks(db) == []
        assert follow(Deadline.after(10)) == 1
        assert marks(db) == ["storage 40%"]

    def test_one_that_is_not_ones_own(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        subscribe("usr_bob")
        mine, theirs = add(db, percent(1)), add(db, percent(2), by="product")
        for threshold, user in ((mine, "usr_bob"), (mine, None), (theirs, "usr_ana")):
            with pytest.raises(NotFound):
                self.change(db, threshold, 3, user_id=user)
        assert {t.percent for t in thresholds.of(db, "usr_ana")} == {1, 2}

    def test_an_equal_one(self, db: Database, subscribe: Subscribe) -> None:
        """A threshold of somebody else, of another feature or measure is not equal."""
        subscribe()
        subscribe("usr_bob")
        add(db, percent(40), user="usr_bob")
        add(db, percent(40), by="product")
        add(db, percent(40), by="operator", user=None)
        add(db, percent(40, "storage"))
        add(db, percent(40, measure="spend"))
        added = add(db, percent(60))
        assert self.change(db, added, 40).percent == 40
        other = add(db, percent(60))
        with pytest.raises(Conflict) as refused:
            self.change(db, other, 40)
        assert refused.value.code == "threshold_exists"

    def test_two_become_equal_at_once(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        one, two = add(db, percent(10)), add(db, percent(20))
        race.first(lambda mine: self.change(mine, one, 50))
        other = race.second(lambda mine: self.change(mine, two, 50))
        race.commit()
        with pytest.raises(Conflict):
            _ = other.answer
        assert [t.percent for t in thresholds.of(db, "usr_ana")] == [20, 50]

    def test_two_of_all_users_become_equal_at_once(self, race: Race, db: Database) -> None:
        every = partial(add, db, by="operator", user=None)
        one, two = every(percent(10)), every(percent(20))
        race.first(lambda mine: self.change(mine, one, 50, user_id=None))
        other = race.second(lambda mine: self.change(mine, two, 50, user_id=None))
        race.commit()
        with pytest.raises(Conflict):
            _ = other.answer
        assert [t.percent for t in thresholds.of(db, None)] == [20, 50]

    def test_one_of_all_users_that_is_removed_meanwhile(self, race: Race, db: Database) -> None:
        """Who changes it waits for the threshold first, as who removes it."""
        added = add(db, percent(10), by="operator", user=None)
        race.first(lambda mine: mine.execute("delete from threshold where id = %s", [added.id]))
        other = race.second(lambda mine: self.change(mine, added, 50, user_id=None))
        race.first(lambda mine: mine.execute("select request_look()"))
        race.commit()
        with pytest.raises(NotFound):
            _ = other.answer


class TestSpending:
    def test_the_defaults(self, db: Database, subscribe: Subscribe) -> None:
        """80 and 100 percent of the limit, over all features."""
        subscribe()
        grant_feature(db, "usr_ana", "tokens", included=Decimal(0))
        use(db, "170")
        assert marks(db) == ["storage 80%", "storage 100%"]
        use(db, "12", "tokens")
        (reached,) = told(db)
        assert reached == {
            "type": "spend.threshold_reached",
            "threshold": {"percent": "80"},
            "spent": "8.2",
            "limit": "10",
            "currency": "usd",
            "period_start": "2026-09-01T00:00:00.000Z",
            "period_end": "2026-10-01T00:00:00.000Z",
        }
        use(db, "18", "tokens")
        assert marks(db) == ["spend 100%"]

    def test_an_amount(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        add(db, amount("2.50", measure="spend"))
        use(db, "124")
        told(db)
        use(db, "1")
        assert marks(db) == ["spend 2.5"]

    def test_by_confirming_and_correcting(self, db: Database, subscribe: Subscribe) -> None:
        """Each way to book; and again once less was spent."""
        subscribe()
        held = hold(db, "190")
        use(db, "1")
        assert told(db) == []
        assert confirm(db, held, Decimal(180), rules=RULES, now=NOW).code is None
        assert marks(db) == ["storage 80%", "storage 100%", "spend 80%"]
        fix(db, "-10")
        fix(db, "10")
        assert marks(db) == ["spend 80%"]

    def test_again_after_more_is_included(self, db: Database, subscribe: Subscribe) -> None:
        """An upgrade makes the overage cost less. Growing again, also in one step, it is told."""
        subscribe()
        use(db, "185")  # 8.50
        assert marks(db) == ["storage 80%", "storage 100%", "spend 80%"]
        entitle(db, included=1000)
        use(db, "900")  # 8.50 again
        assert marks(db) == ["storage 80%", "storage 100%", "spend 80%"]

    def test_what_is_reached_of_a_lowered_limit_is_not_told_again(
        self, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe()
        use(db, "200")  # 10.00, the whole ceiling
        assert marks(db)[-1] == "spend 100%"
        set_limit(db, "usr_ana", Decimal(2), by="user", rules=RULES, now=NOW)
        fix(db, "-5")  # 9.50
        set_limit(db, "usr_ana", None, by="product", rules=RULES, now=NOW)
        assert marks(db) == []

    def test_what_is_still_reached_after_more_is_included_is_not_told_again(
        self, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe()
        use(db, "195")  # 9.50
        assert marks(db)[-1] == "spend 80%"
        entitle(db, included=110)  # 8.50
        use(db, "1")
        assert marks(db) == []

    def test_a_limit_that_is_set(self, db: Database, subscribe: Subscribe) -> None:
        """A lower limit is reached sooner, at once where as much is spent."""
        subscribe()
        use(db, "150")
        told(db)
        set_limit(db, "usr_ana", Decimal(6), by="user", rules=RULES, now=NOW)
        assert marks(db) == ["spend 80%"]
        set_limit(db, "usr_ana", None, by="user", rules=RULES, now=NOW)
        use(db, "20")
        assert marks(db) == []
        use(db, "20")
        assert marks(db) == ["spend 80%"]

    def test_no_limit(self, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        accept(db, [event("5000")], rules=replace(RULES, ceilings={"usd": None}), now=NOW)
        assert marks(db) == ["storage 80%", "storage 100%"]


class TestRefused:
    def tell(self, db: Database, *refusals: Refusal) -> None:
        thresholds.tell_refused(db, refusals, rules=RULES, now=NOW)

    def test_once_per_period(self, db: Database, subscribe: Subscribe) -> None:
        subscribe(overage_enabled=False)
        use(db, "98")
        told(db)
        refusal = Refusal("usr_ana", "storage", "limit_reached")
        self.tell(db, refusal, refusal)
        self.tell(db, refusal)
        (reached,) = told(db)
        assert reached == {
            "type": "usage.limit_reached",
            "feature": "storage",
            "used": "98",
            "limit": "100",
            "period_start": "2026-09-01T00:00:00.000Z",
            "period_end": "2026-10-01T00:00:00.000Z",
        }
        fix(db, "-50")
        self.tell(db, refusal)
        assert told(db) == []
        use(db, "1", now=END)
        self.tell(db, refusal)
        assert [each["type"] for each in told(db)] == ["usage.limit_reached"]

    def test_the_spend_limit(self, db: Database, subscribe: Subscribe) -> None:
        """Once, whichever feature it was."""
        subscribe()
        use(db, "150")
        told(db)
        self.tell(
            db,
            Refusal("usr_ana", "storage", "spend_limit_reached"),
            Refusal("usr_ana", "tokens", "spend_limit_reached"),
        )
        (reached,) = told(db)
        assert reached == {
            "type": "spend.limit_reached",
            "spent": "5",
            "limit": "10",
            "currency": "usd",
            "period_start": "2026-09-01T00:00:00.000Z",
            "period_end": "2026-10-01T00:00:00.000Z",
        }

    def test_other_refusals(self, db: Database, subscribe: Subscribe) -> None:
        """Only the limits are told, and not the limit of an earlier period."""
        subscribe()
        self.tell(
            db,
            Refusal("usr_ana", "storage", None),
            Refusal("usr_ana", "storage", "payment_overdue"),
            Refusal("usr_ana", "storage", "limit_reached", NOW - timedelta(days=20)),
            Refusal("usr_none", "storage", "limit_reached"),
        )
        assert told(db) == []


class TestFollowing:
    """What was changed for all users is evaluated by the next run of reconcile."""

    def follow(self, db: Database, rules: Rules = RULES, *, seconds: float = 10) -> int:
        return thresholds.follow(db, rules, lambda: NOW, Deadline.after(seconds))

    @pytest.fixture(autouse=True)
    def users(self, db: Database, subscribe: Subscribe) -> None:
        for user in ("usr_ana", "usr_bob", "usr_cid"):
            subscribe(user)
        batch = [event("150", user=user) for user in ("usr_ana", "usr_bob")]
        assert take(db, *batch) == ["accepted"] * 2
        self.follow(db)
        for user in ("usr_ana", "usr_bob"):
            told(db, user=user)

    def test_a_changed_ceiling(self, db: Database) -> None:
        lower = replace(RULES, ceilings={"usd": Decimal(6)})
        assert self.follow(db, lower) == 3
        assert marks(db) == ["spend 80%"]
        assert marks(db, user="usr_bob") == ["spend 80%"]
        assert self.follow(db, lower) == 0

    def test_a_threshold_of_all_users(self, db: Database) -> None:
        added = add(db, percent(120), by="operator", user=None)
        assert marks(db) == []
        assert self.follow(db) == 3
        assert marks(db) == ["storage 120%"]
        assert self.follow(db) == 0
        thresholds.remove(db, str(added.id), user_id=None, rules=RULES, now=NOW)
        assert self.follow(db) == 3

    def test_in_steps(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run without time leaves the rest to the next one."""
        monkeypatch.setattr(thresholds, "_BATCH", 1)
        add(db, percent(120), by="operator", user=None)
        assert self.follow(db, seconds=0) == 0
        assert rounds.latest(db, "thresholds").is_under_way
        assert self.follow(db) == 3
        assert marks(db, user="usr_bob") == ["storage 120%"]

    def test_usage_that_is_being_booked(self, race: Race, db: Database) -> None:
        """It is counted, or it looks at the threshold itself."""
        race.first(lambda mine: take(mine, event("55", user="usr_cid")))
        add(db, percent(50), by="operator", user=None)
        other = race.second(self.follow)
        race.commit()
        assert other.answer == 3
        assert marks(db, user="usr_cid") == ["storage 50%"]


class TestManyAtOnce:
    def test_500_calls_over_a_threshold(
        self, db: Database, subscribe: Subscribe, database_url: str
    ) -> None:
        """Single events, batches and confirmations cross it together: it is told once."""
        subscribe(included=Decimal(1000))
        threads, calls = 10, 50
        barrier = Barrier(threads)
        held = [[hold(db, "1") for _ in range(calls // 2)] if n % 2 else [] for n in range(threads)]

        def work(n: int) -> int:
            with own_database(database_url) as mine:
                barrier.wait()
                for i in range(calls):
                    if n % 2 and i % 2:
                        done = confirm(mine, held[n][i // 2], Decimal(2), rules=RULES, now=NOW)
                        assert done.code is None
                    elif i % 3:
                        use(mine, "2")
                    else:
                        assert take(mine, event("1"), event("1")) == ["accepted"] * 2
                return calls

        with ThreadPoolExecutor(threads) as pool:
            assert sum(pool.map(work, range(threads))) == 500
        assert db.value("select total from usage_total") == 1000
        assert marks(db) == ["storage 80%", "storage 100%"]

    def test_a_threshold_that_is_added_meanwhile(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """The event that crosses it looks at it, or adding it does: never neither."""
        subscribe()
        use(db, "10")
        race.first(lambda mine: add(mine, percent(50)))
        other = race.second(lambda mine: use(mine, "45"))
        race.commit()
        assert other.answer is None
        assert marks(db) == ["storage 50%"]

    def test_usage_while_a_threshold_is_added(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe()
        use(db, "10")
        race.first(lambda mine: use(mine, "45"))
        other = race.second(lambda mine: add(mine, percent(50)))
        race.commit()
        assert other.answer.percent == 50
        assert marks(db) == ["storage 50%"]

    def test_the_20th_is_added_twice(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        for value in range(1, 20):
            add(db, percent(value))
        race.first(lambda mine: add(mine, percent(50)))
        other = race.second(lambda mine: add(mine, percent(51)))
        race.commit()
        with pytest.raises(Conflict):
            _ = other.answer
        assert len(thresholds.of(db, "usr_ana")) == 20

    def test_one_that_is_erased_meanwhile(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """Erasing a user deletes the thresholds: whoever removes one waits for the user first."""
        subscribe()
        added = str(add(db, percent(50)).id)
        race.first(
            lambda mine: mine.execute("select from users where id = 'usr_ana' for no key update")
        )
        other = race.second(
            lambda mine: thresholds.remove(mine, added, user_id="usr_ana", rules=RULES, now=NOW)
        )
        race.first(lambda mine: mine.execute("delete from threshold where user_id = 'usr_ana'"))
        race.commit()
        with pytest.raises(NotFound):
            _ = other.answer
