"""However webhooks arrive, the mirror ends in Commet's truth."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, currently_in_test_context, given, note, settings
from hypothesis import strategies as st

from billing import wiring
from billing.clock import Clock, wall_clock
from billing.commet.client import Commet
from billing.credentials.secrets import Secrets
from billing.database.connection import Database
from functions.webhook import app
from standin.testing import receiver, standin
from tests.environments import forget
from tests.integration.billing.conftest import empty
from tests.proof.bills import BILLS, BillHistory
from tests.proof.histories import BEGINNING, LOSS, PAYS, PEOPLE, Step, steps
from tests.proof.money import CATALOGUE, MONEY, VISIT
from tests.proof.scale import FULL, scaled

EXAMPLES = settings(
    max_examples=scaled(250, 6),
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

# A refresh that meets newer news leaves the row marked for the next.
_RUNS = 3


@dataclass(frozen=True)
class Tale:
    """A history to be, and the readings of Commet's contract under which it takes place."""

    steps: list[Step]
    seed: int
    same_timestamps: bool
    options: dict[str, Any]
    ceiling: Decimal | None = Decimal(500)


def tales(*others: "st.SearchStrategy[Step]") -> "st.SearchStrategy[Tale]":
    """Histories with these steps besides."""
    return st.builds(
        Tale,
        steps=steps(*others),
        seed=st.integers(0, 9999),
        same_timestamps=st.booleans(),
        options=st.fixed_dictionaries(
            {
                "state_snapshot": st.sampled_from(["delivery", "emission"]),
                "active_lookup": st.sampled_from(["any", "live"]),
                "shuffle_seed": st.none() | st.integers(0, 99),
                "tax_percent": st.sampled_from([Decimal(0), Decimal(19)]),
            }
        ),
        ceiling=st.sampled_from([None, Decimal(500), Decimal(3)]),
    )


class Handler:
    """The webhook function in this process; also the store of its one secret.

    `clock` is the function's clock: it has to show the history's time, because a webhook from a
    later time than the function's own counts as of now.
    """

    def __init__(self) -> None:
        self._secret = ""
        self.clock: Clock = wall_clock

    def know(self, secret: str, clock: Clock) -> None:
        """From now on this secret is the right one, and this clock."""
        self._secret = secret
        self.clock = clock
        forget()

    def get(self, *_: str) -> str:
        """Every secret of the stack is the webhook's."""
        return json.dumps({"secrets": [self._secret]})

    def __call__(self, body: bytes, signature: str) -> int:
        """Delivers through HTTP, as far as Lambda sees it; the status of the answer."""
        event = {
            "rawPath": "/",
            "requestContext": {
                "requestId": "1",
                "routeKey": "$default",
                "http": {"method": "POST"},
            },
            "headers": {"x-commet-signature": signature},
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }
        return int(app.handler(event, None)["statusCode"])


@pytest.fixture
def handler(kept_db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handler]:
    made = Handler()
    monkeypatch.setenv("COMMET_MODE", "sandbox")
    monkeypatch.setenv("WEBHOOK_SECRET_ARN", "webhook")
    monkeypatch.setattr(app.metrics.provider, "namespace", "test")
    monkeypatch.setattr(wiring, "database", lambda: kept_db)
    monkeypatch.setattr(wiring, "secrets", lambda: Secrets(made))
    monkeypatch.setattr(wiring, "clock", lambda: made.clock)
    forget()
    yield made
    forget()


@contextmanager
def taking_place(
    tale: Tale, db: Database, handler: Handler, *, swept: bool = False
) -> Iterator[BillHistory]:
    """The history, up to where all that is left is to deliver the rest, in an empty mirror.

    Where it has been `swept` already, reconcile reads nothing but what is marked.
    """
    empty(db._usable())
    if swept:
        db.execute(
            "insert into rounds (name, started_at, begun_at) values ('sweep', now(), 'infinity')"
        )
    with standin(catalogue=CATALOGUE, **tale.options) as remote, receiver() as hooks:
        commet = Commet(
            remote.base_url,
            lambda *, fresh=False: remote.api_key,  # noqa: ARG005
            live=False,
            sleep=lambda _: None,
        )
        if tale.same_timestamps:
            remote.control.fault(webhooks={"same_timestamp": True}, times=None)
        history = BillHistory(db, remote, hooks, commet, handler, ceiling=tale.ceiling)
        handler.know(history.secret, history.clock)
        try:
            for step in BEGINNING + tale.steps:
                if currently_in_test_context():
                    note(repr(step))
                history.run(step)
            yield history
        finally:
            history.close()
            commet._http.close()


def settle(history: BillHistory, seed: int) -> None:
    """Everything on its way arrives, and the scheduled functions run until nothing is left."""
    for _ in range(_RUNS):
        history.run(Step("deliver_all", (seed,)))
        history.reconcile()
        history.run(Step("send"))
    history.run(Step("deliver_all", (seed,)))
    for _ in range(_RUNS):
        history.reconcile()


def compare(history: BillHistory, seed: int) -> None:
    """Everything is as Commet says, also after everybody has left; then all bills are right."""
    settle(history, seed)
    assert history.differences() == []
    history.run(Step("leave"))
    settle(history, seed)
    assert history.differences() == []
    assert history.bills() == []


@EXAMPLES
@given(tale=tales(MONEY, MONEY, BILLS))
def test_nothing_lost(kept_db: Database, handler: Handler, tale: Tale) -> None:
    """Late, shuffled, twice: webhooks and the questions they lead to are enough."""
    with taking_place(tale, kept_db, handler, swept=True) as history:
        compare(history, tale.seed)


@EXAMPLES
@given(tale=tales(MONEY, MONEY, BILLS, LOSS, VISIT))
def test_any_lost(kept_db: Database, handler: Handler, tale: Tale) -> None:
    """Whatever never arrived, a day of reconcile finds it out."""
    with taking_place(tale, kept_db, handler) as history:
        history.run(Step("wait", (1.1,)))  # a dispute is asked about after a day
        history.lose(tale.seed)
        history.deliver_all(tale.seed)
        kept_db.execute("update subscriptions set recheck_at = now()")
        kept_db.execute("update rounds set begun_at = '-infinity'")
        compare(history, tale.seed)


ANA = PEOPLE[0]
HEARD = Step("deliver_all", (0,))

# Histories in which one rule alone decides. The random ones come by such places now and then.
TRIAL = Step("subscribe_there", (ANA, "usage_pro", "monthly", 14))
STORIES: dict[str, list[Step]] = {
    "a ceiling": [HEARD, Step("use", (ANA, "99")), Step("use_up_credit", (ANA, "40"))],
    "an own limit": [
        HEARD, Step("limit", (ANA, "2", "user")), Step("use", (ANA, "99")),
        Step("use_up_credit", (ANA, "3.5")), Step("use_up_credit", (ANA, "40")),
    ],
    "a disputed payment": [
        HEARD, Step("dispute", (ANA, True)), HEARD, Step("use_up_credit", (ANA, "99")),
    ],
    "a dispute that was won unheard": [
        HEARD, Step("dispute", (ANA, True)), HEARD, Step("resolve_dispute", (ANA, "won")),
        Step("lose_all"),
    ],
    "a lost dispute": [
        HEARD, Step("dispute", (ANA, False)), HEARD, Step("resolve_dispute", (ANA, "lost")), HEARD,
        Step("reconcile"), Step("use_up_credit", (ANA, "99")), Step("cancel", (ANA, True)), HEARD,
        Step("subscribe", (ANA, "usage_pro", "monthly")), Step("pay_debts", (ANA,)),
    ],
    "a month that was never paid": [
        HEARD, Step("use", (ANA, "130")), Step("use", (ANA, "99")), Step("send"),
        Step("never_pay", (ANA,)), Step("lose_all"),
    ],
    "a month that was never paid, and a new beginning": [
        HEARD, Step("reconcile"), Step("never_pay", (ANA,)), Step("card", (ANA, False)),
        Step("reactivate", (ANA,)), Step("lose_all", ("payment.retry_failed",)),
    ],
    "a past due month that was canceled": [
        HEARD, Step("use", (ANA, "130")), Step("use", (ANA, "99")), Step("send"),
        Step("bad_month", (ANA,)), HEARD, Step("use_up_credit", (ANA, "99")),
        Step("cancel", (ANA, True)),
    ],
    "usage that was lost": [
        HEARD, Step("use", (ANA, "130")), Step("use", (ANA, "99")), Step("cancel", (ANA, True)),
        Step("lose_all"), Step("send"),
    ],
    "a trial that was left unheard": [
        Step("cancel", (ANA, True)), HEARD, Step("try_out", (ANA, "monthly")), Step("lose_all"),
        Step("try_out", (ANA, "yearly")), Step("try_out", (ANA, "monthly")),
    ],
    "usage in a trial": [
        Step("cancel", (ANA, True)), HEARD, Step("subscribe", (ANA, "tryout", "monthly")),
        Step("pay", (ANA, PAYS)), HEARD, Step("use_up_credit", (ANA, "40")),
    ],
    "back by the portal": [
        Step("cancel", (ANA, True)), HEARD, Step("reconcile"),
        Step("visit", (ANA, Step("reactivate", (ANA,)), True)),
    ],
    "gone by the portal": [
        HEARD, Step("reconcile"), Step("visit", (ANA, Step("cancel", (ANA, True)), True)),
    ],
    "a lost answer about a change of plan": [
        HEARD, Step("use", (ANA, "130")),
        Step("change_here", (ANA, "usage_max", "monthly", 5, True)),
    ],
    "two months and an early end": [
        HEARD, Step("renew", (ANA, "130")), HEARD, Step("use", (ANA, "3.5")),
        Step("renew", (ANA, "1030.25")), HEARD, Step("use", (ANA, "130")), Step("send"),
    ],
    "a month that was delivered late": [
        HEARD, Step("use", (ANA, "130")), Step("wait", (32,)), HEARD, Step("use", (ANA, "99")),
    ],
    "a correction in time": [
        HEARD, Step("use", (ANA, "130")), Step("use", (ANA, "99")), Step("send"),
        Step("correct", (ANA, "0.5")), Step("send"),
    ],
    "a correction that is too late": [
        HEARD, Step("use", (ANA, "130")), Step("renew", (ANA, "99")), HEARD, Step("reconcile"),
        Step("correct", (ANA, "0.5")), Step("send"),
    ],
    "a threshold that is reached again": [
        HEARD, Step("use", (ANA, "99")), Step("correct", (ANA, "0.5")), Step("use", (ANA, "40")),
    ],
    "a trial and the month after it": [
        Step("cancel", (ANA, True)), HEARD, Step("subscribe", (ANA, "tryout", "monthly")),
        Step("pay", (ANA, PAYS)), HEARD, Step("use", (ANA, "99")), Step("wait", (14.5,)), HEARD,
        Step("reconcile"), Step("use_late", (ANA, "1", 2)), Step("use", (ANA, "130")),
    ],
    "a trial that ends unheard by paying": [
        Step("cancel", (ANA, True)), HEARD, TRIAL, Step("pay", (ANA, PAYS)), HEARD,
        Step("use", (ANA, "99")), Step("upgrade", (ANA,)), Step("send"), HEARD,
        Step("reconcile"), Step("use", (ANA, "940")), Step("send"),
    ],
    "usage of a paid plan of which nobody has heard": [
        Step("cancel", (ANA, True)), HEARD, TRIAL, Step("pay", (ANA, PAYS)), HEARD,
        Step("use", (ANA, "40")), Step("upgrade", (ANA,)), Step("use", (ANA, "3.5")),
        Step("send"), HEARD, Step("reconcile"), Step("use", (ANA, "990")), Step("send"),
    ],
    "a free month and an upgrade": [
        Step("cancel", (ANA, True)), HEARD, Step("subscribe", (ANA, "free", "monthly")), HEARD,
        Step("use", (ANA, "3.5")), Step("cancel", (ANA, True)), HEARD,
        Step("subscribe", (ANA, "usage_pro", "monthly")), Step("pay", (ANA, PAYS)), HEARD,
        Step("use", (ANA, "130")),
    ],
    # The month that we guess begins after the one that runs, and is closed before we hear of that.
    "a new beginning of which only the end before it is heard": [
        HEARD, Step("wait", (10,)), Step("come_back", (ANA,)),
        Step("lose_all", ("subscription.canceled",)), Step("wait", (83,)), Step("use", (ANA, "1")),
    ],
    "usage of the last hour": [
        HEARD, Step("use", (ANA, "99")), Step("send"), Step("cancel", (ANA, True)), HEARD,
        Step("use_late", (ANA, "40", 0.02)), Step("send"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
def test_a_story(kept_db: Database, handler: Handler, story: str) -> None:
    """What a random history compares holds in these."""
    ceiling = Decimal(3) if story == "a ceiling" else Decimal(500)
    tale = Tale(STORIES[story], 0, False, {"tax_percent": Decimal(19)}, ceiling)  # noqa: FBT003
    with taking_place(tale, kept_db, handler) as history:
        history.run(Step("wait", (1.1,)))
        kept_db.execute("update subscriptions set recheck_at = now()")
        compare(history, tale.seed)


@pytest.mark.parametrize(("is_heard", "lost"), [(True, Decimal(0)), (False, Decimal(3))])
def test_a_change_of_plan_that_is_heard_months_late(
    kept_db: Database,
    handler: Handler,
    is_heard: bool,  # noqa: FBT001 - a parameter
    lost: Decimal,
) -> None:
    """Usage that was lost costs what the last plan that we heard of takes for it.

    The plan of which nobody heard includes all of the usage.
    """
    tale = Tale([HEARD], 0, False, {}, None)  # noqa: FBT003
    with taking_place(tale, kept_db, handler) as history:
        history.run(Step("change_plan", (ANA, "pln_usagemax", "monthly")))
        late = history.hold_back()
        history.run(Step("wait", (64,)))
        history.run(Step("cancel", (ANA, True)))
        history.run(Step("lose_all"))
        kept_db.execute("update subscriptions set checked_at = now(), checks = 6")  # nobody asks
        assert history.use(ANA, "130") is None
        if is_heard:
            history.arrive(late)
        compare(history, tale.seed)
    rows = kept_db.all("select reason, amount from usage_delivery where user_id = %s", [ANA])
    assert rows == [{"reason": "lost_to_cancellation", "amount": lost}]


def test_usage_counts_where_it_occurred(kept_db: Database, handler: Handler) -> None:
    """In the trial until the user paid, in the paid period from then on, whenever it was heard."""
    tale = Tale(STORIES["usage of a paid plan of which nobody has heard"], 0, False, {}, None)  # noqa: FBT003
    with taking_place(tale, kept_db, handler) as history:
        compare(history, tale.seed)
    rows = kept_db.all(
        "select t.withheld, c.carried from usage_period n"
        " join usage_total t on t.period = n.free_period and t.feature = 'storage'"
        " join usage_total c on c.period = n.id and c.feature = 'storage'"
    )
    assert rows == [{"withheld": Decimal(40), "carried": Decimal("3.5")}]
