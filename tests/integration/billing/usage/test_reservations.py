"""Holding an amount before the work: what counts against the limit, and that work counts once."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier

import pytest

from billing.database.connection import Database
from billing.usage.accepting import UsageEvent, accept, check
from billing.usage.reservations import (
    Reservation,
    ReservationResult,
    confirm,
    find,
    release,
    reserve,
    tidy,
)
from billing.usage.totals import usage_of_user
from tests.integration.billing.conftest import (
    NOW,
    RULES,
    START,
    Subscribe,
    after,
    booked,
    grant_feature,
)

END = datetime(2026, 10, 1, tzinfo=UTC)
MINUTES_5 = timedelta(minutes=5)


def hold(
    db: Database,
    quantity: str = "10",
    *,
    key: str = "job",
    user: str = "usr_ana",
    now: datetime = NOW,
    expires_in: timedelta = MINUTES_5,
    properties: dict[str, str] | None = None,
) -> ReservationResult:
    usage = UsageEvent(user, "storage", Decimal(quantity), key, properties=properties or {})
    return reserve(db, usage, expires_in=expires_in, rules=RULES, now=now)


def held(
    db: Database, quantity: str = "10", *, key: str = "job", now: datetime = NOW
) -> Reservation:
    outcome = hold(db, quantity, key=key, now=now)
    assert outcome.reservation is not None, outcome
    return outcome.reservation


def took(
    db: Database, reservation: Reservation, quantity: str = "10", *, now: datetime = NOW
) -> str:
    """What confirming came to, in one word."""
    outcome = confirm(db, reservation, Decimal(quantity), rules=RULES, now=now)
    return outcome.code or ("repeated" if outcome.repeated else "confirmed")


def take(
    db: Database, quantity: str, *, key: str = "event", now: datetime = NOW, **fields: object
) -> str:
    event = UsageEvent("usr_ana", "storage", Decimal(quantity), key, **fields)  # type: ignore[arg-type]
    (verdict,) = accept(db, [event], rules=RULES, now=now)
    return verdict.code or verdict.status


def state_of(db: Database, reservation: Reservation, *, now: datetime = NOW) -> str:
    found = find(db, reservation.id, now=now)
    assert found is not None
    return found.state


class TestReserve:
    def test_holds(self, db: Database, subscribe: Subscribe) -> None:
        """What is held can be used by nobody else, and nothing is booked yet."""
        subscribe(overage_enabled=False)
        reservation = held(db, "60")
        assert reservation.id.startswith("rsv_")
        assert (reservation.state, reservation.expires_at) == ("held", NOW + MINUTES_5)
        assert set(booked(db, "usr_ana").values()) == {Decimal(0)}
        assert take(db, "40.000001") == "limit_reached"
        assert hold(db, "40.000001", key="other").code == "limit_reached"
        assert take(db, "40") == "accepted"

    def test_until_it_expires(self, db: Database, subscribe: Subscribe) -> None:
        """At that moment, by the clock handed in; nothing has to run for it."""
        subscribe(overage_enabled=False)
        reservation = held(db, "100")
        assert take(db, "1", now=NOW + MINUTES_5 - timedelta(microseconds=1)) == "limit_reached"
        assert state_of(db, reservation, now=NOW + MINUTES_5) == "expired"
        assert take(db, "1", now=NOW + MINUTES_5) == "accepted"

    def test_again_is_the_same_one(self, db: Database, subscribe: Subscribe) -> None:
        """One key, one reservation, with its first expiry; another amount is a conflict."""
        subscribe()
        first = held(db, "10")
        again = hold(db, "10.0", now=after(minutes=1))
        assert (again.reservation, again.repeated) == (first, True)
        assert hold(db, "11").code == "conflict"

    def test_again_after_it_was_confirmed(self, db: Database, subscribe: Subscribe) -> None:
        """The same one again, which says that nothing is left to do."""
        subscribe()
        took(db, held(db), "7")
        again = hold(db)
        assert again.reservation is not None
        assert (again.repeated, again.reservation.state) == (True, "confirmed")

    @pytest.mark.parametrize("tidied", [False, True])
    def test_again_after_it_expired(
        self, db: Database, subscribe: Subscribe, *, tidied: bool
    ) -> None:
        """Held anew for as long as is asked, under its first id, and counting as it did."""
        subscribe(overage_enabled=False)
        first = held(db, "60")
        then = NOW + MINUTES_5
        if tidied:
            tidy(db, now=then)
        again = hold(db, "60", now=then)
        assert (again.code, again.repeated) == (None, False)
        assert again.reservation == replace(first, expires_at=then + MINUTES_5)
        assert take(db, "41", now=then) == "limit_reached"
        assert hold(db, "60", now=then).repeated
        assert took(db, first, "60", now=then) == "confirmed"

    def test_again_after_it_expired_and_no_longer_fits(
        self, db: Database, subscribe: Subscribe
    ) -> None:
        """Refused as a first one would be, and confirmed late where it fits by then."""
        subscribe(overage_enabled=False)
        first = held(db, "60")
        then = NOW + MINUTES_5
        other = held(db, "41", key="other", now=then)
        assert hold(db, "60", now=then).code == "limit_reached"
        assert state_of(db, first, now=then) == "expired"
        release(db, other, now=then)
        db.execute("update subscriptions set status = 'paused'")
        assert hold(db, "60", now=then).code == "subscription_required"
        db.execute("update subscriptions set status = 'active'")
        assert took(db, first, "60", now=then) == "confirmed"

    def test_again_for_something_else(self, db: Database, subscribe: Subscribe) -> None:
        """However the first one ended, its key stands for that."""
        subscribe()
        held(db, "10")
        assert hold(db, "11", now=NOW + MINUTES_5).code == "conflict"
        release(db, held(db, key="other"), now=NOW)
        assert hold(db, "11", key="other").code == "conflict"

    def test_of_work_that_was_counted(self, db: Database, subscribe: Subscribe) -> None:
        """A key that reported usage cannot hold any more: for the same work, nor for another."""
        subscribe()
        take(db, "1", key="job")
        assert hold(db, "1").code == "already_counted"
        assert hold(db, "2").code == "conflict"

    @pytest.mark.parametrize("end", ["released", "expired"])
    def test_of_work_that_was_counted_without_its_hold(
        self, db: Database, subscribe: Subscribe, end: str
    ) -> None:
        """Whatever it took, it was the work that had been held for."""
        subscribe()
        reservation = held(db)
        then = NOW + MINUTES_5
        release(db, reservation, now=NOW) if end == "released" else tidy(db, now=then)
        take(db, "7", key="job", now=then)
        assert hold(db, now=then).code == "already_counted"

    @pytest.mark.parametrize("then", [NOW, NOW + MINUTES_5])
    def test_of_another_feature_that_was_counted(
        self, db: Database, subscribe: Subscribe, then: datetime
    ) -> None:
        """A key belongs to one feature: what another one counted under it ends no reservation."""
        subscribe()
        grant_feature(db, "usr_ana", "api")
        reservation = held(db)
        accept(db, [UsageEvent("usr_ana", "api", Decimal(10), "job")], rules=RULES, now=NOW)
        assert hold(db, now=then).reservation == find(db, reservation.id, now=then)
        assert took(db, reservation, now=then) == "confirmed"

    def test_where_there_is_no_limit(self, db: Database, subscribe: Subscribe) -> None:
        """With overage it is held all the same, and stops nobody."""
        subscribe()
        assert hold(db, "5000").code is None
        assert take(db, "5000") == "accepted"

    def test_who_may_not_use_may_not_hold(self, db: Database, subscribe: Subscribe) -> None:
        """The same refusals as of usage, and a refusal leaves the key free."""
        assert hold(db, user="usr_nobody").code == "unknown_user"
        subscribe(status="paused")
        assert hold(db).code == "subscription_required"
        db.execute("update subscriptions set status = 'active'")
        assert hold(db).code is None

    @pytest.mark.parametrize("seconds", [0, -1, 3601])
    def test_for_how_long(self, db: Database, seconds: int) -> None:
        """Longer than no time, and at most an hour."""
        with pytest.raises(ValueError, match="hour"):
            hold(db, expires_in=timedelta(seconds=seconds))

    @pytest.mark.parametrize(
        "asked", [timedelta(microseconds=1), timedelta(hours=1), None], ids=str
    )
    def test_for_as_long_as_asked(
        self, db: Database, subscribe: Subscribe, asked: timedelta | None
    ) -> None:
        """Five minutes where nobody says for how long."""
        subscribe()
        usage = UsageEvent("usr_ana", "storage", Decimal(10), "job")
        how = {} if asked is None else {"expires_in": asked}
        reservation = reserve(db, usage, rules=RULES, now=NOW, **how).reservation
        assert reservation is not None
        assert reservation.expires_at == NOW + (asked or timedelta(minutes=5))

    def test_more_than_commet_can_count(self, db: Database, subscribe: Subscribe) -> None:
        """What could not be booked is not held."""
        subscribe()
        take(db, "999999999.999999")
        assert hold(db, "999998999999999").code is None
        assert hold(db, "0.000002", key="more").code == "total_too_large"
        assert hold(db, "0.000001", key="just").code is None


class TestConfirm:
    def test_books_what_it_took(self, db: Database, subscribe: Subscribe) -> None:
        """Less than was held frees the rest; ledger, total and day agree."""
        subscribe(overage_enabled=False)
        reservation = held(db, "100")
        assert took(db, reservation, "60.5", now=after(minutes=1)) == "confirmed"
        assert set(booked(db, "usr_ana").values()) == {Decimal("60.5")}
        assert take(db, "39.5") == "accepted"
        row = db.one("select kind, idempotency_key, booked_at, late from usage_event limit 1")
        assert row == {
            "kind": "confirm",
            "idempotency_key": "job",
            "booked_at": after(minutes=1),
            "late": False,
        }
        assert state_of(db, reservation) == "confirmed"

    def test_again(self, db: Database, subscribe: Subscribe) -> None:
        """The same amount again gives the same answer, however late; another is a conflict."""
        subscribe()
        reservation = held(db)
        assert took(db, reservation, "7") == "confirmed"
        assert took(db, reservation, "7.0", now=after(days=2)) == "repeated"
        assert took(db, reservation, "8") == "conflict"
        assert booked(db, "usr_ana")["total"] == 7

    def test_more_than_was_held(self, db: Database, subscribe: Subscribe) -> None:
        """Only into what nobody else uses or holds; refused, the hold stays as it is."""
        subscribe(overage_enabled=False)
        reservation = held(db, "50")
        held(db, "30", key="other")
        assert took(db, reservation, "70.000001") == "limit_reached"
        assert state_of(db, reservation) == "held"
        assert took(db, reservation, "70") == "confirmed"

    def test_after_it_expired(self, db: Database, subscribe: Subscribe) -> None:
        """Booked if it still fits, beside what others used and hold by then."""
        subscribe(overage_enabled=False)
        late, later = held(db, "50", key="a"), held(db, "50", key="b")
        then = NOW + MINUTES_5
        take(db, "20", now=then)
        hold(db, "30", key="c", now=then)
        assert took(db, late, "50.000001", now=then) == "reservation_expired"
        assert took(db, late, "50", now=then) == "confirmed"
        assert took(db, later, "0.000001", now=then) == "reservation_expired"

    def test_after_the_sweep(self, db: Database, subscribe: Subscribe) -> None:
        """Being set aside as expired changes nothing of that."""
        subscribe(overage_enabled=False)
        reservation = held(db, "50")
        assert tidy(db, now=NOW + MINUTES_5) == 1
        assert took(db, reservation, "50", now=NOW + MINUTES_5) == "confirmed"

    def test_what_is_held_is_not_taken_away(self, db: Database, subscribe: Subscribe) -> None:
        """The limit falls below what several hold together: a promise was given to each of them."""
        subscribe(overage_enabled=False)
        first, second = held(db, "40", key="a"), held(db, "60", key="b")
        grant_feature(db, "usr_ana", "storage", included=Decimal(60), overage_enabled=False)
        assert took(db, second, "60") == "confirmed"
        assert took(db, first, "40") == "confirmed"
        assert booked(db, "usr_ana")["total"] == 100

    def test_into_the_next_period(self, db: Database, subscribe: Subscribe) -> None:
        """A hold counts against whichever period runs, and is booked in the one that does."""
        subscribe(overage_enabled=False)
        shortly_before = END - timedelta(minutes=1)
        reservation = held(db, "60", now=shortly_before)
        assert take(db, "41", now=END) == "limit_reached"
        assert took(db, reservation, "60", now=END) == "confirmed"
        row = db.one("select starts_at, total from usage_period join usage_total on period = id")
        assert row == {"starts_at": END, "total": 60}

    def test_after_the_subscription_ended(self, db: Database, subscribe: Subscribe) -> None:
        """A hold is a promise: up to it, work is booked into the period that ended."""
        subscribe()
        reservation = held(db, "30")
        db.execute("update subscriptions set status = 'canceled'")
        db.execute("update usage_period set closed_at = %s", [NOW])
        assert took(db, reservation, "31") == "subscription_required"
        assert took(db, reservation, "30") == "confirmed"
        ended = db.one(
            "select starts_at, closed_at, total from usage_period p join usage_total t"
            " on t.period = p.id"
        )
        assert ended == {"starts_at": START, "closed_at": NOW, "total": 30}

    def test_after_a_change_to_a_plan_without_the_feature(
        self, db: Database, subscribe: Subscribe
    ) -> None:
        """The work is booked in the period in which it was held, whose terms price it."""
        subscribe()
        reservation = held(db, "30")
        db.execute("update usage_period set closed_at = %s", [NOW])
        db.execute(
            "insert into usage_period (user_id, subscription_id, plan_id, starts_at, ends_at)"
            " values ('usr_ana', 'sub_1', 'pln_other', %s, %s)",
            [NOW + timedelta(minutes=1), END],
        )
        db.execute("update entitlements set allowed = false, included = 0, overage_enabled = false")
        later = NOW + timedelta(minutes=2)
        assert take(db, "1", now=later) == "feature_not_in_plan"
        assert took(db, reservation, "30", now=later) == "confirmed"
        assert (
            db.value("select starts_at from usage_period p join usage_total t on t.period = p.id")
            == START
        )

    def test_what_was_said_of_it_is_kept(self, db: Database, subscribe: Subscribe) -> None:
        """Properties given with the hold are in the ledger."""
        subscribe()
        reservation = hold(db, properties={"job": "17"}).reservation
        assert reservation is not None
        took(db, reservation)
        assert db.value("select properties from usage_event") == {"job": "17"}

    def test_no_quantity(self, db: Database, subscribe: Subscribe) -> None:
        """Work that took nothing is released."""
        subscribe()
        with pytest.raises(ValueError, match="quantity"):
            took(db, held(db), "0")


class TestOneKeyOneUnitOfWork:
    def test_reported_after_it_was_confirmed(self, db: Database, subscribe: Subscribe) -> None:
        """Who lost the answer may report the same directly: it is known."""
        subscribe()
        reservation = held(db)
        took(db, reservation, "7")
        assert take(db, "7", key="job") == "duplicate"
        assert take(db, "8", key="job") == "conflict"
        assert booked(db, "usr_ana")["total"] == 7

    def test_confirmed_after_it_was_reported(self, db: Database, subscribe: Subscribe) -> None:
        """Then there is nothing left to book, and the hold is over."""
        subscribe(overage_enabled=False)
        reservation = held(db, "60")
        assert take(db, "30", key="job") == "accepted"
        assert took(db, reservation, "40") == "conflict"
        assert took(db, reservation, "30") == "repeated"
        assert state_of(db, reservation) == "confirmed"
        assert take(db, "70") == "accepted"

    @pytest.mark.parametrize("quantity", ["100", "60"])
    def test_a_hold_is_not_in_the_way_of_its_own_work(
        self, db: Database, subscribe: Subscribe, quantity: str
    ) -> None:
        """Reported directly it takes the place of its hold, which is over with that."""
        subscribe(overage_enabled=False)
        reservation = held(db, "100")
        assert take(db, "1", key="other") == "limit_reached"
        assert take(db, quantity, key="job") == "accepted"
        concluded = find(db, reservation.id, now=NOW)
        assert concluded is not None
        assert (concluded.state, concluded.booked) == ("confirmed", Decimal(quantity))
        left = 100 - Decimal(quantity)
        assert take(db, str(left + 1), key="more") == "limit_reached"
        assert left == 0 or take(db, str(left), key="rest") == "accepted"

    @pytest.mark.parametrize(
        ("quantity", "verdict"),
        [("50", "accepted"), ("49.5", "accepted"), ("50.000001", "limit_reached")],
    )
    def test_what_is_held_is_not_taken_away(
        self, db: Database, subscribe: Subscribe, quantity: str, verdict: str
    ) -> None:
        """The limit falls below what several hold: reported or confirmed, the same is decided."""
        subscribe(overage_enabled=False)
        subscribe("usr_bob", overage_enabled=False)
        for user in ("usr_ana", "usr_bob"):
            first = hold(db, "50", user=user).reservation
            hold(db, "40", key="other", user=user)
            grant_feature(db, user, "storage", included=Decimal(60), overage_enabled=False)
        assert first is not None
        assert take(db, quantity, key="job") == verdict
        assert took(db, first, quantity) == verdict.replace("accepted", "confirmed")
        # Of the second hold only what is left of the limit.
        left = "10" if quantity == "50" else "10.5" if verdict == "accepted" else "40"
        assert take(db, "40.000001", key="other") == "limit_reached"
        assert take(db, left, key="other") == "accepted"
        assert booked(db, "usr_ana")["total"] <= 60

    def test_in_one_batch(self, db: Database, subscribe: Subscribe) -> None:
        """Each in its place: one that is refused frees nothing, one that is accepted does."""
        subscribe(overage_enabled=False)
        reservation = held(db, "60")
        batch = [("other", "50"), ("job", "101"), ("other", "50"), ("job", "30"), ("other", "70")]
        events = [UsageEvent("usr_ana", "storage", Decimal(q), key) for key, q in batch]
        verdicts = accept(db, events[:3], rules=RULES, now=NOW)
        assert [v.code for v in verdicts] == ["limit_reached"] * 3
        assert state_of(db, reservation) == "held"
        verdicts = accept(db, events, rules=RULES, now=NOW)
        assert [v.code for v in verdicts] == ["limit_reached"] * 3 + [None, None]
        assert set(booked(db, "usr_ana").values()) == {Decimal(100)}

    def test_where_there_is_no_limit(self, db: Database, subscribe: Subscribe) -> None:
        """The hold is over there too, and no longer shown beside what it came to."""
        subscribe()
        reservation = held(db, "60")
        assert take(db, "30", key="job") == "accepted"
        assert state_of(db, reservation) == "confirmed"
        (shown,) = usage_of_user(db, user_id="usr_ana", currency="usd", now=NOW)
        assert (shown.used, shown.held) == (Decimal(30), Decimal(0))

    def test_the_same_key_for_something_else(self, db: Database, subscribe: Subscribe) -> None:
        """Usage of another feature, or by another user, is not the work that was held for."""
        subscribe(overage_enabled=False)
        subscribe("usr_bob", overage_enabled=False)
        grant_feature(db, "usr_ana", "api", overage_enabled=False)
        reservation = held(db, "60")
        events = [
            UsageEvent("usr_ana", "api", Decimal(100), "job"),
            UsageEvent("usr_bob", "storage", Decimal(100), "job"),
        ]
        verdicts = accept(db, events, rules=RULES, now=NOW)
        assert [v.status for v in verdicts] == ["accepted"] * 2
        assert state_of(db, reservation) == "held"
        assert take(db, "41") == "limit_reached"


class TestRelease:
    def test_gives_back(self, db: Database, subscribe: Subscribe) -> None:
        """What was held is free at once; again is the same."""
        subscribe(overage_enabled=False)
        reservation = held(db, "100")
        for _ in range(2):
            assert release(db, reservation, now=NOW).code is None
        assert take(db, "100") == "accepted"
        assert took(db, reservation, "1") == "reservation_released"

    def test_what_was_confirmed_stays(self, db: Database, subscribe: Subscribe) -> None:
        """It is corrected, not released."""
        subscribe()
        reservation = held(db)
        took(db, reservation)
        assert release(db, reservation, now=NOW).code == "reservation_confirmed"

    def test_the_key_stays_taken(self, db: Database, subscribe: Subscribe) -> None:
        """Nobody may believe to hold what was given back, then or after it would have expired."""
        subscribe()
        release(db, held(db), now=NOW)
        assert hold(db).code == "reservation_released"
        assert hold(db, now=after(days=1)).code == "reservation_released"


class TestFind:
    def test_by_its_id(self, db: Database, subscribe: Subscribe) -> None:
        """None where there is none."""
        subscribe()
        reservation = held(db)
        assert find(db, reservation.id, now=NOW) == reservation
        assert find(db, "rsv_none", now=NOW) is None


class TestTidy:
    def test_sets_aside_and_forgets(self, db: Database, subscribe: Subscribe) -> None:
        """What expired leaves the index of holds; long over, it leaves altogether."""
        subscribe()
        lost, running = held(db, key="lost"), held(db, key="running", now=after(minutes=4))
        assert tidy(db, now=NOW + MINUTES_5) == 1
        assert db.value("select state from usage_reservation where id = %s", [lost.id]) == "expired"
        assert state_of(db, running) == "held"
        tidy(db, now=NOW + MINUTES_5 + timedelta(days=35))
        assert find(db, lost.id, now=NOW) is not None
        tidy(db, now=NOW + MINUTES_5 + timedelta(days=35, microseconds=1))
        assert find(db, lost.id, now=NOW) is None
        assert find(db, running.id, now=NOW) is not None

    def test_a_forgotten_one_is_still_counted_once(
        self, db: Database, subscribe: Subscribe
    ) -> None:
        """The ledger has its key."""
        subscribe()
        took(db, held(db))
        tidy(db, now=after(days=40))
        assert hold(db).code == "already_counted"
        assert take(db, "10", key="job") == "duplicate"


class TestCheckAndDashboard:
    def test_check_counts_what_is_held(self, db: Database, subscribe: Subscribe) -> None:
        """It promises what acceptance would take."""
        subscribe(overage_enabled=False)
        held(db, "60")

        def ask(quantity: str, now: datetime = NOW) -> tuple[bool, Decimal | None]:
            found = check(
                db, user_id="usr_ana", feature="storage", quantity=Decimal(quantity),
                rules=RULES, now=now,
            )  # fmt: skip
            return found.allowed, found.remaining

        assert ask("40") == (True, Decimal(40))
        assert ask("41") == (False, Decimal(40))
        assert ask("100", NOW + MINUTES_5) == (True, Decimal(100))

    def test_the_dashboard_shows_it_apart(self, db: Database, subscribe: Subscribe) -> None:
        """Held is not used: it costs nothing yet."""
        subscribe()
        held(db, "60")
        (storage,) = usage_of_user(db, user_id="usr_ana", currency="usd", now=NOW)
        assert [storage.used, storage.held, storage.remaining] == [0, 60, 100]


class TestConcurrency:
    def test_many_reservations_and_confirms(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> None:
        """200 jobs of 1 to 3 want to hold 100: what was held fits, and what was booked is exact."""
        subscribe(overage_enabled=False)
        barrier = Barrier(16)

        def work(n: int) -> list[Decimal]:
            mine = connect()
            mine.value("select 1")
            barrier.wait()
            taken = []
            for job in range(n, 200, 16):
                size = str(job % 3 + 1)
                outcome = hold(mine, size, key=f"job-{job}")
                if outcome.reservation is None:
                    assert outcome.code == "limit_reached"
                elif job % 5 == 0:
                    assert release(mine, outcome.reservation, now=NOW).code is None
                else:
                    assert took(mine, outcome.reservation, size) == "confirmed"
                    taken.append(Decimal(size))
            return taken

        with ThreadPoolExecutor(16) as pool:
            taken = [size for sizes in pool.map(work, range(16)) for size in sizes]
        assert set(booked(db, "usr_ana").values()) == {sum(taken, Decimal(0))}
        assert Decimal(98) <= sum(taken) <= Decimal(100)

    def test_many_ask_again_for_what_expired(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> None:
        """Six of ten fit anew, each is held once, and others are told that it is, or no longer."""
        subscribe(overage_enabled=False)
        for job in range(10):
            held(db, "10", key=f"job-{job}")
        grant_feature(db, "usr_ana", "storage", included=Decimal(60), overage_enabled=False)
        then = NOW + MINUTES_5
        barrier = Barrier(8)

        def work(n: int) -> list[str]:
            mine = connect()
            mine.value("select 1")
            barrier.wait()
            if n == 0:
                tidy(mine, now=then)
                return []
            told = [hold(mine, "10", key=f"job-{(n + job) % 10}", now=then) for job in range(10)]
            return [each.code or ("repeated" if each.repeated else "held") for each in told]

        with ThreadPoolExecutor(8) as pool:
            words = Counter(word for told in pool.map(work, range(8)) for word in told)
        assert words == {"held": 6, "repeated": 6 * 6, "limit_reached": 4 * 7}
        tidy(db, now=then)
        assert db.value("select sum(quantity) from usage_reservation where state = 'held'") == 60

    def test_one_reservation_confirmed_by_many(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> None:
        """Booked once; one is told it was, the others that it had been."""
        subscribe()
        reservation = held(db)
        barrier = Barrier(8)

        def work(_: int) -> str:
            mine = connect()
            mine.value("select 1")
            barrier.wait()
            return took(mine, reservation)

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(work, range(8))) == ["confirmed"] + ["repeated"] * 7
        assert booked(db, "usr_ana")["total"] == 10
