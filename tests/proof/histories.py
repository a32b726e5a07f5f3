"""Random lives of some people at Commet, told to the mirror in any way the network may tell them.

A history is a list of steps. Some happen at the Commet stand-in (subscribe, pay, change, pause,
cancel, time passing), others to the mirror (webhooks arrive, requests and reconcile ask). What the
stand-in sends is caught by a receiver and handed to the mirror when the history says so: late,
shuffled, twice, or never.
"""

import hashlib
import hmac
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from hypothesis import strategies as st

from billing.accounts.accounts import User
from billing.commet.client import Commet
from billing.config import from_env
from billing.database.connection import Database, Row
from billing.deadline import Deadline
from billing.errors import BillingError, CommetRefused
from billing.events import log
from billing.operations import reconcile
from billing.subscriptions import inbox, mirror
from billing.subscriptions.access import Access
from billing.subscriptions.checkout import Checkouts, Started
from billing.subscriptions.from_webhook import HANDLED
from billing.subscriptions.refresh import ask, refresh, write
from standin.testing import Control, Receiver, StandIn

PEOPLE = ("usr_ana", "usr_bob", "usr_cy")
PAYS, DECLINED, LATER_DECLINED = "4242424242424242", "4000000000000002", "4000000000000341"
ACCESS = ("active", "trialing", "past_due")

# Calls are counted elsewhere: here they shall not hold anything up.
SETTINGS = from_env({"COMMET_MODE": "sandbox", "COMMET_CALLS_PER_SECOND": "1000000"})

Post = Callable[[bytes, str], int]


@dataclass(frozen=True, slots=True)
class Step:
    """`do` names a method of History."""

    do: str
    args: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"{self.do}{self.args}"


def step_of(do: str, *args: "st.SearchStrategy[Any]") -> "st.SearchStrategy[Step]":
    """Steps of that name, with arguments that are drawn."""
    return st.builds(lambda *drawn: Step(do, drawn), *args)


SOMEBODY = st.sampled_from(PEOPLE)
_seed = st.integers(0, 9999)
_intervals = st.sampled_from([None, "monthly", "yearly"])

_change_plan = step_of(
    "change_plan",
    SOMEBODY,
    st.sampled_from([None, "pln_free", "pln_usagepro", "pln_usagemax"]),
    _intervals,
)
_cancel = step_of("cancel", SOMEBODY, st.booleans())
_pause = step_of(
    "pause", SOMEBODY, st.sampled_from(["immediate", "period_end"]), st.sampled_from([None, 3, 40])
)
_wait = step_of("wait", st.sampled_from([0.1, 1, 3, 8, 32, 100]))
# First, because a failing history is made simpler by replacing steps with what comes first.
_nothing = st.just(Step("nothing"))
AT_COMMET = st.one_of(
    step_of("subscribe", SOMEBODY, st.sampled_from(["free", "usage_pro", "usage_max", "fixed_box"]),
          st.sampled_from(["monthly", "yearly"])),
    step_of("subscribe_there", SOMEBODY, st.sampled_from(["free", "usage_pro", "usage_max"]),
          _intervals, st.sampled_from([0, 2, 14])),
    step_of("pay", SOMEBODY, st.sampled_from([PAYS, PAYS, PAYS, DECLINED, LATER_DECLINED])),
    _change_plan, _change_plan,
    _cancel, _cancel, step_of("uncancel", SOMEBODY), step_of("reactivate", SOMEBODY),
    _pause, _pause, step_of("end_pause", SOMEBODY),
    step_of("card", SOMEBODY, st.booleans()), step_of("bad_month", SOMEBODY),
    step_of("upgrade", SOMEBODY), step_of("come_back", SOMEBODY),
    _wait, _wait,
)  # fmt: skip
ON_THE_WAY = st.one_of(
    step_of("deliver", _seed),
    step_of("deliver", _seed),
    step_of("refresh", SOMEBODY),
    step_of("slow_refresh", SOMEBODY, AT_COMMET, _seed),
    step_of("ask", SOMEBODY),
    step_of("reconcile"),
)
LOSS = step_of("lose", _seed)


def steps(*others: "st.SearchStrategy[Step]") -> "st.SearchStrategy[list[Step]]":
    """A history, mostly of things that happen at Commet."""
    step = st.one_of(_nothing, AT_COMMET, AT_COMMET, AT_COMMET, ON_THE_WAY, *others)
    return st.lists(step, min_size=18, max_size=30)


# Everybody starts with something to lose.
BEGINNING = [
    Step("subscribe", (PEOPLE[0], "usage_pro", "monthly")),
    Step("pay", (PEOPLE[0], PAYS)),
    Step("subscribe_there", (PEOPLE[1], "usage_pro", "monthly", 14)),
    Step("pay", (PEOPLE[1], PAYS)),
    Step("subscribe", (PEOPLE[2], "usage_max", "yearly")),
    Step("pay", (PEOPLE[2], PAYS)),
]


class History:
    """One run: the stand-in and the mirror, and what is on its way between them."""

    settings = SETTINGS  # of all functions in this history

    def __init__(
        self, db: Database, remote: StandIn, hooks: Receiver, commet: Commet, post: Post
    ) -> None:
        self._db = db
        self._control: Control = remote.control
        self._hooks = hooks
        self.commet = commet
        self._post = post
        self._http = httpx.Client(
            base_url=remote.base_url, headers={"x-api-key": remote.api_key}, trust_env=False
        )
        endpoint = self._call(
            "POST", "/webhooks", {"url": hooks.url, "events": [*HANDLED, "payment.received"]}
        )
        self.secret = str(endpoint["secretKey"])
        self._taken = 0
        self._waiting: list[bytes] = []
        self._arrived: list[bytes] = []
        for who in PEOPLE:
            db.execute(
                "insert into users (id, email, created_at) values (%s, %s, now())",
                [who, f"{who}@example.com"],
            )

    def close(self) -> None:
        self._http.close()

    def run(self, step: Step) -> None:
        """Does what the step says; what Commet refuses simply does not happen."""
        getattr(self, step.do)(*step.args)
        self._control.settle()
        new = self._hooks.received[self._taken :]
        self._taken += len(new)
        self._waiting += [each.body for each in new]

    def clock(self) -> datetime:
        """Commet's time, which is ours too."""
        return self._control.now()

    def nothing(self) -> None:
        """What is left of a step that a failure does not need."""

    # --- what happens at Commet ----------------------------------------------------------

    def subscribe(self, who: str, plan: str, interval: str) -> Started | None:
        """Through our own checkout."""
        with suppress(BillingError):
            return Checkouts(self._db, self.commet, self.clock).start(
                User(who, f"{who}@example.com", None),
                plan_code=plan,
                billing_interval=None if plan == "free" else interval,
                success_url="https://app.example/",
                deadline=Deadline.after(20),
            )
        return None

    def subscribe_there(self, who: str, plan: str, interval: str | None, trial: int) -> None:
        """In Commet's dashboard: nobody tells us but the webhooks."""
        self._customer(who)
        body = {"customerId": who, "planCode": plan, "customTrialDays": trial}
        self._call("POST", "/subscriptions", body | {"billingInterval": interval})

    def pay(self, who: str, card: str) -> None:
        for sub in self._subs(who):
            try:
                self._control.pay(sub["id"], card_number=card)
            except httpx.HTTPStatusError:
                continue
            return

    def cancel(self, who: str, immediate: bool) -> None:  # noqa: FBT001 - drawn
        self._on_current(who, "POST", "cancel", {"immediate": immediate})

    def uncancel(self, who: str) -> None:
        self._on_current(who, "POST", "uncancel", {})

    def change_plan(self, who: str, plan: str | None, interval: str | None) -> None:
        self._on_current(
            who, "POST", "change-plan", {"newPlanId": plan, "newBillingInterval": interval}
        )

    def pause(self, who: str, mode: str, days: int | None) -> None:
        self._on_current(who, "POST", "pause", {"mode": mode, "durationDays": days})

    def end_pause(self, who: str) -> None:
        self._on_current(who, "DELETE", "pause", None)
        self._on_current(who, "POST", "resume", {})

    def card(self, who: str, fails: bool) -> None:  # noqa: FBT001 - drawn
        if self._subs(who):
            self._control.set_card(who, charge_failure="card_declined" if fails else None)

    def reactivate(self, who: str) -> None:
        for sub in self._subs(who)[:1]:
            self._call("POST", f"/subscriptions/{sub['id']}/reactivate", {})

    def wait(self, days: float) -> None:
        self._control.advance(days=days)

    def bad_month(self, who: str) -> None:
        """A renewal that is declined."""
        self.card(who, fails=True)
        self.wait(32)

    def upgrade(self, who: str) -> None:
        """At once, with a new period."""
        self.card(who, fails=False)
        self.change_plan(who, "pln_usagemax", "monthly")
        self.change_plan(who, "pln_usagemax", "yearly")

    def come_back(self, who: str) -> None:
        """A subscription that has ended goes on, anchored anew."""
        self.card(who, fails=False)
        self.cancel(who, immediate=True)
        self.reactivate(who)

    # --- what reaches the mirror -----------------------------------------------------------

    def deliver(self, seed: int) -> None:
        """Some of what is on its way arrives, shuffled, some of it twice or once more."""
        chance = random.Random(seed)  # noqa: S311
        now = [each for each in self._waiting if chance.random() < 0.6]
        self._waiting = [each for each in self._waiting if each not in now]
        self._hand_over(now, chance)

    def lose(self, seed: int) -> None:
        """Some of what is on its way never arrives."""
        chance = random.Random(seed)  # noqa: S311
        self._waiting = [each for each in self._waiting if chance.random() < 0.4]

    def lose_all(self, *but: str) -> None:
        """Nothing of what is on its way arrives, but for webhooks of these types."""
        self._waiting = [each for each in self._waiting if json.loads(each)["event"] in but]

    def deliver_all(self, seed: int) -> None:
        """The rest arrives."""
        now, self._waiting = self._waiting, []
        self._hand_over(now, random.Random(seed))  # noqa: S311

    def hold_back(self) -> list[bytes]:
        """What is on its way, which does not arrive before `arrive` is called."""
        held, self._waiting = self._waiting, []
        return held

    def arrive(self, bodies: list[bytes]) -> None:
        """What was held back arrives, once and in order."""
        for each in bodies:
            inbox.receive(self._db, each, mode="sandbox", now=self.clock())
        self._arrived += bodies

    def _hand_over(self, bodies: list[bytes], chance: random.Random) -> None:
        again = [each for each in self._arrived if chance.random() < 0.1]
        queue = bodies + again + [each for each in bodies if chance.random() < 0.2]
        chance.shuffle(queue)
        self._arrived += bodies
        for each in queue:
            if chance.random() < 0.3:
                signature = hmac.new(self.secret.encode(), each, hashlib.sha256).hexdigest()
                assert self._post(each, signature) == 200
            else:
                inbox.receive(self._db, each, mode="sandbox", now=self.clock())
            self.heard()

    def heard(self) -> None:
        """A webhook was dealt with."""

    def refresh(self, who: str) -> None:
        """Somebody asks Commet, who may never have heard of this user."""
        with suppress(CommetRefused):
            refresh(self._db, self.commet, who, now=self.clock(), deadline=Deadline.after(20))

    def slow_refresh(self, who: str, meanwhile: Step, seed: int) -> None:
        """The same, and between question and answer something happens and some of it arrives."""
        rows = mirror.refreshable(self._db, who)
        with suppress(CommetRefused):
            truth = ask(self.commet, who, rows, now=self.clock(), deadline=Deadline.after(20))
            self.run(meanwhile)
            self.deliver(seed)
            write(self._db, rows, truth)

    def reconcile(self) -> None:
        """A scheduled run; all pauses between two questions are over."""
        self.make_due()
        summary = reconcile.run(
            self._db, self.commet, self.settings, clock=self.clock, deadline=Deadline.after(60)
        )
        assert summary["refresh_failed"] == 0

    def ask(self, who: str) -> None:
        """A request does, where it has reason to; its pause since the last time is over."""
        self.make_due()
        Access(self._db, self.settings, lambda: self.commet, self.clock).standing(
            who, Deadline.after(20)
        )

    def make_due(self) -> None:
        """All pauses between two questions are over."""
        self._db.execute(
            "update subscriptions set checked_at = null,"
            " refresh_due = case when refresh_due is not null then now() end"
        )

    # --- the truth and what is believed ------------------------------------------------------

    def differences(self) -> list[str]:
        """Where the mirror says otherwise than Commet, or events otherwise than the mirror."""
        believed, true = self._belief(), self._truth()
        return self._told_wrongly() + [
            f"{part} of {key}: {believed[part].get(key)} and not {true[part].get(key)}"
            for part in true
            for key in sorted(true[part].keys() | believed[part].keys())
            if believed[part].get(key) != true[part].get(key)
            and not self._never_heard_of(believed[part].get(key), true[part].get(key))
        ]

    def _told_wrongly(self) -> list[str]:
        """Where the outgoing events alone say otherwise of access and plan than we decide."""
        while log.place(self._db):
            pass
        wrong = []
        for who in PEOPLE:
            events = log.after(self._db, 0, 100_000, user_id=who)
            numbers = [each.sequence for each in events]
            if numbers != list(range(1, len(events) + 1)):
                wrong.append(f"{who}: events {numbers}")
            access, subscription = False, {}
            for each in events:
                if each.type in ("access.granted", "access.ended"):
                    if access == (each.type == "access.granted"):
                        wrong.append(f"{who}: {each.type} twice")
                    access = each.type == "access.granted"
                elif each.type == "subscription.changed":
                    subscription = each.data
            row = self._db.one(
                "select has_access(%(who)s, %(now)s) as access,"
                " subscription_to_tell(%(who)s) as it",
                {"who": who, "now": self.clock()},
            )
            assert row is not None
            if row["access"] is not None and row["access"] != access:
                wrong.append(f"{who}: access {access} was told, and is {row['access']}")
            if row["it"] is not None and row["it"] != {n: subscription.get(n) for n in row["it"]}:
                wrong.append(f"{who}: is {row['it']}, and {subscription} was told")
        return wrong

    def _never_heard_of(self, believed: Any, true: Any) -> bool:
        """Whether it is a subscription that gives nothing, and whose every webhook was lost.

        Nobody here began it, it is found once it is paid, and until then it changes no answer.
        """
        idle = isinstance(true, dict) and true.get("status") in ("pending_payment", "canceled")
        return believed is None and idle

    def _truth(self) -> dict[str, Any]:
        """What Commet says of everybody."""
        customers = {c["id"]: c["external_id"] for c in self._control.state()["customers"]}
        rows = self._control.state()["subscriptions"]
        subs = {}
        for each in rows:
            said = self._call("GET", f"/subscriptions/{each['id']}", None)
            period = said["currentPeriod"] or {"start": None, "end": None}
            subs[each["id"]] = {
                "user": customers[each["customer_id"]],
                "status": said["status"],
                "plan": said["plan"]["id"],
                "interval": said["billingInterval"],
                "start": _moment(period["start"]),
                "end": _moment(period["end"]),
                "canceling": said["cancelAtPeriodEnd"],
                "booked": _booked(said["scheduledPlanChange"]),
                "trial_ends": _moment(said["trialEndsAt"]),
            }
        allowed: dict[str, Any] = {who: {} for who in PEOPLE}
        periods = {}
        for who in sorted(customers.values()):
            live = any(s["user"] == who and s["status"] in ACCESS for s in subs.values())
            listed = self._call("GET", "/feature-access", None, customerId=who)["data"]
            allowed[who] = {f["code"]: _feature(f) for f in listed if f["allowed"]}
            starts = {
                (f["consumption"]["period"]["start"], f["consumption"]["period"]["end"])
                for f in listed
                if f["type"] == "usage"
            }
            if live:
                [(start, end)] = starts
                periods[who] = (_moment(start), _moment(end))
        return {"subscriptions": subs, "features": allowed, "periods": periods}

    def _belief(self) -> dict[str, Any]:
        """What the mirror says, in the same words."""
        rows = self._db.all("select * from subscriptions order by id")
        subs = {
            row["id"]: {
                "user": row["user_id"],
                "status": row["status"],
                "plan": row["plan_id"],
                "interval": row["billing_interval"],
                "start": row["period_start"],
                "end": row["period_end"],
                "canceling": row["cancel_at_period_end"],
                "booked": _believed(row["scheduled_change"]),
                "trial_ends": row["trial_ends_at"],
            }
            for row in rows
        }
        allowed: dict[str, Any] = {who: {} for who in PEOPLE}
        for row in self._db.all("select * from entitlements where allowed order by feature"):
            allowed[row["user_id"]][row["feature"]] = _granted(row)
        counting = {s["user"] for s in subs.values() if s["status"] in ACCESS}
        periods = {
            row["user_id"]: (row["starts_at"], row["ends_at"])
            for row in self._db.all(_OPEN_PERIODS, {"now": self.clock()})
            if row["user_id"] in counting
        }
        return {"subscriptions": subs, "features": allowed, "periods": periods}

    # --- the wire ------------------------------------------------------------------------------

    def _customer(self, who: str) -> None:
        self._call("POST", "/customers", {"id": who, "email": f"{who}@example.com"})

    def _subs(self, who: str) -> list[dict[str, Any]]:
        """Newest first."""
        state = self._control.state()
        ids = [c["id"] for c in state["customers"] if c["external_id"] == who]
        return [s for s in state["subscriptions"] if s["customer_id"] in ids]

    def _on_current(self, who: str, method: str, verb: str, body: Any) -> None:
        for sub in self._subs(who):
            if sub["status"] != "canceled":
                self._call(method, f"/subscriptions/{sub['id']}/{verb}", body)
                return

    def _call(self, method: str, path: str, body: Any, **params: str) -> Any:
        answer = self._http.request(method, path, json=body, params=params)
        assert answer.status_code < 500, answer.text
        return answer.json()


# One that has ended is followed by the next as soon as anything is counted.
_OPEN_PERIODS = """
select user_id, coalesce(n.starts_at, p.starts_at) as starts_at,
       coalesce(n.ends_at, p.ends_at) as ends_at
from usage_period p
left join lateral following_period(p.starts_at, p.ends_at, %(now)s) as n
    on p.ends_at <= %(now)s
where closed_at is null
"""


def _booked(said: dict[str, Any] | None) -> tuple[Any, ...] | None:
    """A booked change of plan, as Commet says it."""
    if said is None:
        return None
    at = _moment(said["scheduledFor"])
    return said["newPlanId"], said["newPlanName"], said["newBillingInterval"], at


def _believed(kept: dict[str, Any] | None) -> tuple[Any, ...] | None:
    """A booked change of plan, as the mirror has it."""
    if kept is None:
        return None
    at = _moment(kept["effective_at"])
    return kept["plan_id"], kept["plan_name"], kept["interval"], at


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _feature(said: dict[str, Any]) -> tuple[Any, ...]:
    if said["type"] == "boolean":
        return ("boolean", None, False, False, None)
    use = said["consumption"]
    overage = use["overage"]
    price = overage["unitPrice"]["amount"] if overage["enabled"] else None
    return ("usage", use["includedUnits"], use["unlimited"], overage["enabled"], price)


def _granted(row: Row) -> tuple[Any, ...]:
    price = row["unit_price"] if row["overage_enabled"] else None
    return (row["type"], row["included"], row["unlimited"], row["overage_enabled"], price)
