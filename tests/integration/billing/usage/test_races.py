"""Two runs meet at one user's usage: whoever comes second sees what the first has done."""

from datetime import timedelta
from decimal import Decimal

from billing.database.connection import Database
from billing.delivery.outbox import claim
from billing.usage.corrections import Corrected, Correction, correct
from billing.usage.reservations import KEPT, find, release, tidy
from tests.integration.billing.conftest import NOW, RULES, Subscribe, after, booked
from tests.integration.billing.racing import Race, passes_by
from tests.integration.billing.usage.test_reservations import (
    MINUTES_5,
    held,
    hold,
    state_of,
    take,
    took,
)

OCTOBER = after(days=25)


def adjust(db: Database, quantity: str, **where: object) -> Corrected:
    correction = Correction(
        "usr_ana", "storage", Decimal(quantity), f"fix {quantity}", "sent twice", **where  # type: ignore[arg-type]
    )  # fmt: skip
    return correct(db, correction, author="support", rules=RULES, now=OCTOBER)


class TestALimit:
    """60 of 100 are taken by the first run; the second wants 41."""

    def test_an_event_after_an_event(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        subscribe(overage_enabled=False)
        assert race.first(lambda mine: take(mine, "60", key="a")) == "accepted"
        other = race.second(lambda mine: take(mine, "41", key="b"))
        race.commit()
        assert other.answer == "limit_reached"
        assert booked(db, "usr_ana")["total"] == 60

    def test_a_reservation_after_an_event(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe(overage_enabled=False)
        assert race.first(lambda mine: take(mine, "60")) == "accepted"
        other = race.second(lambda mine: hold(mine, "41").code)
        race.commit()
        assert other.answer == "limit_reached"
        assert hold(db, "40").code is None

    def test_an_event_after_a_reservation(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe(overage_enabled=False)
        assert race.first(lambda mine: hold(mine, "60").code) is None
        other = race.second(lambda mine: take(mine, "41"))
        race.commit()
        assert other.answer == "limit_reached"
        assert take(db, "40") == "accepted"

    def test_a_correction_after_an_event(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe(overage_enabled=False)
        assert race.first(lambda mine: take(mine, "60", now=OCTOBER)) == "accepted"
        other = race.second(lambda mine: adjust(mine, "41").code)
        race.commit()
        assert other.answer == "limit_reached"
        assert adjust(db, "40").code is None


class TestTheEndOfAReservation:
    """Confirmed or released, whichever came first: never both."""

    def test_confirming_what_is_being_released(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe()
        reservation = held(db)
        assert race.first(lambda mine: release(mine, reservation, now=NOW).code) is None
        other = race.second(lambda mine: took(mine, reservation))
        race.commit()
        assert other.answer == "reservation_released"
        assert state_of(db, reservation) == "released"
        assert booked(db, "usr_ana")["ledger"] == 0

    def test_releasing_what_is_being_confirmed(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """The run that confirms has read the reservation and waits for a total that is claimed."""
        subscribe()
        reservation = held(db)
        take(db, "1")
        assert race.first(lambda mine: claim(mine, now=NOW, interval=timedelta(0))) == 1
        confirming = race.second(lambda mine: took(mine, reservation))
        releasing = race.second(lambda mine: release(mine, reservation, now=NOW).code)
        assert confirming.waits
        race.commit()
        assert (confirming.answer, releasing.answer) == ("confirmed", "reservation_confirmed")
        assert state_of(db, reservation) == "confirmed"

    def test_confirming_what_is_being_confirmed(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe()
        reservation = held(db)
        assert race.first(lambda mine: took(mine, reservation)) == "confirmed"
        other = race.second(lambda mine: took(mine, reservation))
        race.commit()
        assert other.answer == "repeated"
        assert booked(db, "usr_ana")["ledger"] == 10


class TestACorrection:
    def test_of_what_is_being_claimed(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        """Commet is about to be told of all 10, so the 4 that are taken back need a credit."""
        subscribe()
        take(db, "10")
        take(db, "1", key="next", now=OCTOBER)
        assert race.first(lambda mine: claim(mine, now=OCTOBER, interval=timedelta(0))) == 2
        correcting = race.second(lambda mine: adjust(mine, "-4", occurred_at=NOW))
        race.commit()
        booking = correcting.answer.booking
        assert booking is not None
        assert booking.needs_credit is not None
        assert booking.needs_credit.quantity == 4

    def test_below_zero(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        """Two corrections that each leave something cannot together take off more than there is."""
        subscribe()
        take(db, "10", now=OCTOBER)
        assert race.first(lambda mine: adjust(mine, "-6").code) is None
        other = race.second(lambda mine: adjust(mine, "-7").code)
        race.commit()
        assert other.answer == "below_zero"
        assert booked(db, "usr_ana")["total"] == 4


class TestOnePeriod:
    def test_opened_by_two_events_at_once(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """Of the periods that follow, the second run finds the one that the first has opened."""
        subscribe()
        assert race.first(lambda mine: take(mine, "1", key="a", now=OCTOBER)) == "accepted"
        other = race.second(lambda mine: take(mine, "2", key="b", now=OCTOBER))
        race.commit()
        assert other.answer == "accepted"
        assert db.value("select count(*) from usage_period") == 2


class TestTidying:
    BUSY = "select from usage_reservation for update"

    def test_leaves_what_is_being_confirmed(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """A reservation that has expired and is locked is set aside by a later run."""
        subscribe()
        held(db)
        then = NOW + MINUTES_5
        passes_by(race, db, self.BUSY, lambda mine: tidy(mine, now=then), nothing=0, all_of_it=1)

    def test_does_not_wait_to_forget(self, race: Race, db: Database, subscribe: Subscribe) -> None:
        subscribe()
        release(db, held(db), now=NOW)
        then = NOW + MINUTES_5 + KEPT + timedelta(microseconds=1)

        def left(mine: Database) -> int:
            tidy(mine, now=then)
            return int(mine.value("select count(*) from usage_reservation"))

        passes_by(race, db, self.BUSY, left, nothing=1, all_of_it=0)

    def test_does_not_forget_what_is_reserved_anew(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """Expired long ago, and asked for again at the moment at which it would be forgotten."""
        subscribe()
        reservation = held(db)
        then = NOW + MINUTES_5 + KEPT + timedelta(days=1)
        tidy(db, now=NOW + MINUTES_5)
        assert race.first(lambda mine: hold(mine, now=then).code) is None
        tidying = race.second(lambda mine: tidy(mine, now=then))
        race.commit()
        assert tidying.answer == 0
        anew = find(db, reservation.id, now=then)
        assert anew is not None
        assert (anew.state, anew.expires_at) == ("held", then + MINUTES_5)
