"""Events alone say which thresholds are reached, in random histories of usage and of terms.

The random histories of the ledger and of the mirror say the same among everything else. This one
is about thresholds only, so it crosses them more often.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.types.json import Jsonb

from billing.database.connection import Database
from billing.errors import BillingError
from billing.usage import accepting, corrections, reservations, spending, thresholds
from billing.usage.accepting import UsageEvent
from billing.usage.corrections import Correction
from billing.usage.reservations import Reservation
from billing.usage.rules import Rules
from billing.usage.thresholds import Level
from tests.integration.billing.conftest import STATUSES, empty, subscriber
from tests.proof.crossing import Crossings
from tests.proof.delivering import connect
from tests.proof.scale import FULL, scaled

CEILING = Decimal(4)
RULES = Rules(STATUSES, ceilings={"usd": CEILING}, at_once={"usd": None})
START = datetime(2026, 9, 1, tzinfo=UTC)
ANA, BOB = "usr_ana", "usr_bob"

users = st.sampled_from([ANA, ANA, ANA, BOB])
quantities = st.sampled_from([Decimal(text) for text in ("0.5", "7", "20", "49.999999", "80")])
levels = st.sampled_from(
    [
        Level("usage", None, 50, None), Level("usage", "storage", None, Decimal("20.5")),
        Level("usage", "storage", 120, None), Level("spend", None, None, Decimal("1.5")),
        Level("spend", None, 40, None),
    ]
)  # fmt: skip


class Thresholds(RuleBasedStateMachine):
    """Whatever changes what is used, what is included, the limits and the thresholds."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.db = Database(lambda: connect(self.url))
        self.now = START
        self._numbers = count()
        self.crossings = Crossings(self.db, lambda: self.now, CEILING)
        self.booked: list[tuple[str, str]] = []
        self.held: list[Reservation] = []
        self.watching: list[tuple[str, str | None, str]] = []

    @initialize()
    def subscribe(self) -> None:
        empty(self.db._usable())
        for user in (ANA, BOB):
            subscriber(self.db)(
                user,
                starts_at=START,
                ends_at=START + timedelta(days=30),
                included=Decimal(40),
            )
        own = Level("spend", None, None, Decimal("0.7"))  # of 7 units beyond what is included
        thresholds.add(self.db, ANA, own, set_by="user", rules=RULES, now=self.now)

    @rule(user=users, batch=st.lists(quantities, min_size=1, max_size=4))
    def use(self, user: str, batch: list[Decimal]) -> None:
        events = [UsageEvent(user, "storage", each, self._key()) for each in batch]
        for event, verdict in zip(
            events, accepting.accept(self.db, events, rules=RULES, now=self.now), strict=True
        ):
            if verdict.status == "accepted":
                self.booked.append((user, event.idempotency_key))

    @rule(user=users, quantity=quantities)
    def hold(self, user: str, quantity: Decimal) -> None:
        event = UsageEvent(user, "storage", quantity, self._key())
        made = reservations.reserve(
            self.db, event, expires_in=timedelta(hours=1), rules=RULES, now=self.now
        )
        if made.reservation:
            self.held.append(made.reservation)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99), quantity=st.none() | quantities)
    def confirm(self, pick: int, quantity: Decimal | None) -> None:
        held = self.held[pick % len(self.held)]
        took = quantity or held.quantity
        reservations.confirm(self.db, held, took, rules=RULES, now=self.now)

    @rule(user=users, quantity=quantities, less=st.sampled_from([True, True, False]))
    def correct(self, user: str, quantity: Decimal, *, less: bool) -> None:
        signed = -quantity if less else quantity
        self._correct(Correction(user, "storage", signed, self._key(), "a mistake"))

    @precondition(lambda self: self.booked)
    @rule(pick=st.integers(0, 99), quantity=quantities)
    def take_back(self, pick: int, quantity: Decimal) -> None:
        """Less of an entry, also of one in a period that is over."""
        user, key = self.booked[pick % len(self.booked)]
        self._correct(
            Correction(user, "storage", -quantity, self._key(), "a mistake", corrects=key)
        )

    def _correct(self, correction: Correction) -> None:
        corrections.correct(self.db, correction, author="proof", rules=RULES, now=self.now)

    @rule(
        user=users,
        included=st.sampled_from(["0", "40", "100", "200"]),
        unlimited=st.sampled_from([False, False, False, True]),
        overage=st.sampled_from([True, True, False]),
    )
    def change_plan(self, user: str, included: str, *, unlimited: bool, overage: bool) -> None:
        """Commet says what the user has now, in the period that runs."""
        feature = {
            "feature": "storage", "name": "Storage", "unit": "GB", "type": "usage",
            "model": "metered", "allowed": True, "included": included, "unlimited": unlimited,
            "overage_enabled": overage, "unit_price": "1000", "currency": "usd",
        }  # fmt: skip
        self._advance(timedelta(seconds=1))
        self.db.execute(
            "select record_change(%s, %s, %s, %s)",
            [user, self.now, Jsonb({"features": [feature]}), self.now],
        )

    @rule(user=users, amount=st.sampled_from([None, Decimal(2), Decimal(3)]))
    def limit(self, user: str, amount: Decimal | None) -> None:
        for by in ("product", "user"):
            try:
                spending.set_limit(self.db, user, amount, by=by, rules=RULES, now=self.now)
            except BillingError:
                continue
            self.crossings.look(changed=user)

    @rule(user=users, level=levels, by=st.sampled_from(["user", "product"]))
    def watch(self, user: str, level: Level, by: Literal["user", "product"]) -> None:
        added, is_new = thresholds.add(self.db, user, level, set_by=by, rules=RULES, now=self.now)
        assert added.id
        if is_new:
            self.watching.append((user, user if by == "user" else None, added.id))
        # An equal one changes nothing, so nothing is evaluated.
        self.crossings.look(changed=user if is_new else None)

    @precondition(lambda self: self.watching)
    @rule(pick=st.integers(0, 99))
    def stop_watching(self, pick: int) -> None:
        user, owner, threshold = self.watching.pop(pick % len(self.watching))
        thresholds.remove(self.db, threshold, user_id=owner, rules=RULES, now=self.now)
        self.crossings.look(changed=user)

    @rule(days=st.sampled_from([1, 1, 31]))
    def time_passes(self, days: int) -> None:
        """After a month the next usage opens a period."""
        self._advance(timedelta(days=days))

    def _advance(self, by: timedelta) -> None:
        self.now += by

    def _key(self) -> str:
        return f"key-{next(self._numbers)}"

    @invariant()
    def thresholds_are_told(self) -> None:
        self.crossings.look()

    def teardown(self) -> None:
        self.db.close()


def test_events_alone_say_what_is_reached(proof_url: str) -> None:
    """Each threshold is told when it is reached, and again after it was not."""
    Thresholds.url = proof_url
    run_state_machine_as_test(
        Thresholds,
        settings=settings(
            max_examples=scaled(500, 8),
            stateful_step_count=scaled(60, 30),
            derandomize=not FULL,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
