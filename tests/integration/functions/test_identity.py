"""Who is whose customer, through the front door: what Commet's dashboard does to people here."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from billing import wiring
from billing.commet.client import Commet
from billing.credentials.secrets import Secrets
from billing.deadline import Deadline
from billing.errors import CommetUnavailable, Conflict, InvalidRequest, NotFound
from billing.operations import commands
from billing.subscriptions.from_webhook import HANDLED
from functions.deliver_usage import app as deliver_usage
from functions.reconcile import app as reconcile
from functions.track_usage import app as track_usage
from functions.webhook import app as webhook
from standin.testing import Receiver, StandIn, receiver, standin
from tests.integration.billing.conftest import own_database
from tests.integration.conftest import Context
from tests.integration.functions.calling import (
    WEBHOOK_SECRET,
    Answer,
    Store,
    ask,
    call,
    event,
    service_key,
)
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    Environment,
    environment,
    signed_up,
)

pytestmark = pytest.mark.handlers

KEY = "svc_" + "k" * 40
BY = {"author": "ann", "note": "wrote from that address"}


class Dashboard:
    """What a person does in Commet's dashboard, done over the API of the stand-in."""

    def __init__(self, remote: StandIn) -> None:
        self._remote = remote

    def customer(self, email: str, **fields: Any) -> str:
        return str(self._send("POST", "/customers", {"email": email, **fields})["id"])

    def subscribe(self, customer: str, plan: str = "usage_pro") -> str:
        """A subscription that is paid at once."""
        made = self._send("POST", "/subscriptions", {"customerId": customer, "planCode": plan})
        self._remote.control.pay(made["id"])
        return str(made["id"])

    def name(self, customer: str, user: str | None) -> None:
        """Gives the customer this id of ours."""
        self._send("PATCH", f"/customers/{customer}", {"externalId": user})

    def _send(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.request(
            method,
            f"{self._remote.base_url}{path}",
            headers={"x-api-key": self._remote.api_key},
            json=body,
            trust_env=False,
        )
        answer.raise_for_status()
        answered: dict[str, Any] = answer.json()
        return answered


class World:
    """Commet, and its webhooks, which arrive when the test says so."""

    def __init__(self, remote: StandIn, box: Receiver) -> None:
        self.remote, self._box = remote, box
        self.dashboard = Dashboard(remote)

    def pending(self) -> list[bytes]:
        """The webhooks that were sent and not heard yet; they count as heard now."""
        self.remote.control.settle()
        sent = [each.body for each in self._box.received]
        self._box.received.clear()
        return sent

    def hear(self, *bodies: bytes) -> list[str]:
        """Hands webhooks to the handler, all that were sent unless given; what became of them."""
        outcomes = []
        for body in bodies or self.pending():
            digest = hmac.new(WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
            text = base64.b64encode(body).decode()
            request = event("POST", "/", text, {"x-commet-signature": digest}, [])
            request["isBase64Encoded"] = True
            answer = ask(webhook, request)
            assert answer.status == 200
            outcomes.append(answer.json["outcome"])
        assert "failed" not in outcomes
        return outcomes

    def run(self, **command: Any) -> dict[str, Any]:
        """A run of reconcile, or a command."""
        return reconcile.handler(command, Context(55))

    def runs(self) -> None:
        """Runs of reconcile, a while apart: as many as it takes."""
        for _ in range(3):
            summary = self.run()
            assert (summary["webhooks_failed"], summary["refresh_failed"]) == (0, 0)
            wiring.database().execute(
                "update subscriptions set checked_at = checked_at - interval '1 hour'"
            )


class Person:
    """Somebody with an account here. Not `proven`: as if a product had told us of the address."""

    def __init__(self, world: World, *, proven: bool = True, **fields: Any) -> None:
        up = signed_up(**fields).json
        if not proven:
            contact_data = "update users set own_account = false, verified_at = null where id = %s"
            wiring.database().execute(contact_data, [up["user"]["id"]])
        self._world = world
        self.id, self.email = str(up["user"]["id"]), str(up["user"]["email"])
        self._token = up["session"]["token"]

    def checkout(self, plan: str = "usage_pro") -> Answer:
        return call("POST", "/checkout", {"plan_code": plan}, token=self._token)

    def buys(self) -> str:
        """Checks out and pays; the subscription's id."""
        started = self.checkout()
        assert started.status == 201
        self._world.remote.control.pay(started.json["subscription"]["id"])
        self._world.hear()
        assert self.access
        return str(started.json["subscription"]["id"])

    def portal(self) -> Answer:
        return call("POST", "/portal", {}, token=self._token)

    @property
    def access(self) -> bool:
        return bool(call("GET", "/dashboard", token=self._token).json["access"])

    def use(self, quantity: int, key: str) -> Answer:
        body = {
            "user_id": self.id, "feature": "storage", "quantity": quantity, "idempotency_key": key
        }  # fmt: skip
        return call("POST", "/usage", body, token=KEY)

    @property
    def customer(self) -> Any:
        found = "select commet_customer_id from users where id = %s"
        return wiring.database().value(found, [self.id])


@pytest.fixture
def box() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


Start = Callable[..., World]


@pytest.fixture
def start(
    environment: Environment,  # noqa: F811
    box: Receiver,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Start]:
    """Starts a stand-in of the test's own, with these settings, and makes the stack use it."""
    opened = []

    def start_one(**settings: Any) -> World:
        context = standin(**settings)
        remote = context.__enter__()
        opened.append(context)
        environment(
            COMMET_BASE_URL=remote.base_url,
            COMMET_CALLS_PER_SECOND="1000",
            OVERAGE_CEILING="usd=none",
        )
        keys = [service_key("app", KEY, "usage:write", "users:manage", "usage:correct", "read")]
        store = Store(database_url, keys)
        store._values["commet"] = {"api_key": remote.api_key}
        secrets = Secrets(store)
        monkeypatch.setattr(wiring, "secrets", lambda: secrets)
        monkeypatch.setattr(wiring, "clock", lambda: remote.now)
        for app in (reconcile, deliver_usage, track_usage, webhook):
            monkeypatch.setattr(app.metrics.provider, "namespace", "test")
        wiring.commet().create_webhook(
            url=box.url,
            events=HANDLED,
            description="test",
            idempotency_key="test",
            deadline=Deadline.after(20),
        )
        world = World(remote, box)
        world.run()  # the first run begins a sweep, which is not what these tests are about
        return world

    yield start_one
    for client in (wiring.commet(), wiring.metered_commet()):
        client._http.close()
    for each in opened:
        each.__exit__(None, None, None)


@pytest.fixture
def world(start: Start) -> World:
    return start()


class TestMadeInTheDashboard:
    def test_a_subscription_of_a_customer_with_our_id(self, world: World) -> None:
        """The webhooks find the user: access, a link to the portal, and no second subscription."""
        ana = Person(world)
        made = world.dashboard.customer(ana.email, id=ana.id)
        world.dashboard.subscribe(made)
        world.hear()
        assert (ana.access, ana.customer) == (True, made)
        assert ana.portal().status == 201
        refused = ana.checkout()
        assert (refused.status, refused.code) == (409, "already_subscribed")

    def test_whose_webhooks_were_lost(self, world: World) -> None:
        """The checkout finds the customer, and Commet says that there is a subscription."""
        ana = Person(world)
        made = world.dashboard.customer(ana.email, id=ana.id)
        world.dashboard.subscribe(made)
        world.pending()
        refused = ana.checkout()
        assert (refused.status, refused.code) == (409, "already_subscribed")
        assert (ana.access, ana.customer) == (True, made)
        assert ana.portal().status == 201

    def test_a_customer_who_gets_our_id_later(self, world: World) -> None:
        """Webhooks that named the customer by Commet's id wait, and are applied then."""
        ana = Person(world)
        made = world.dashboard.customer(ana.email)
        world.dashboard.subscribe(made)
        assert set(world.hear()) == {"ignored", "applied"}  # applied: who the customer is
        assert not ana.access
        world.dashboard.name(made, ana.id)
        world.hear()
        world.runs()
        assert (ana.access, ana.customer) == (True, made)
        assert ana.use(1, "k1").json["accepted"] == 1

    def test_commet_is_asked_once_who_a_customer_is(self, world: World) -> None:
        """A webhook names a customer by Commet's id, though the customer has ours by now."""
        ana = Person(world)
        made = world.dashboard.customer(ana.email)
        world.dashboard.subscribe(made)
        heard = world.pending()
        world.dashboard.name(made, ana.id)
        world.pending()  # lost
        world.hear(*(each for each in heard if b"customer.created" not in each))
        world.runs()
        assert (ana.access, ana.customer) == (True, made)
        asked = world.remote.control.requests(method="GET", path=f"/customers/{made}")
        assert len(asked) == 1

    def test_a_stranger_is_asked_about_once(self, world: World) -> None:
        """A customer who is nobody of ours costs one question, however many webhooks come."""
        made = world.dashboard.customer("stranger@example.com")
        world.dashboard.subscribe(made)
        heard = [each for each in world.pending() if b"customer.created" not in each]
        assert set(world.hear(*heard)) == {"ignored"}
        world.runs()
        world.dashboard.subscribe(world.dashboard.customer("other@example.com"), "usage_max")
        world.runs()
        asked = world.remote.control.requests(method="GET", path=f"/customers/{made}")
        assert len(asked) == 1


class TestMove:
    """Commet's dashboard gives Ana's customer to Ben."""

    def test_one_loses_and_one_gains(self, world: World) -> None:
        ana, ben = Person(world), Person(world)
        ana.buys()
        made = ana.customer
        world.dashboard.name(made, ben.id)
        world.hear()
        assert not ana.access
        world.runs()
        assert (ana.access, ben.access) == (False, True)
        assert (ana.customer, ben.customer) == (None, made)
        assert ben.use(1, "k1").json["accepted"] == 1
        assert (ana.use(1, "k2").status, ana.portal().status) == (402, 409)
        assert ben.portal().status == 201
        refused = ben.checkout()
        assert (refused.status, refused.code) == (409, "already_subscribed")

    def test_before_any_webhook(self, world: World) -> None:
        """The new user checks out first: no error, and nobody pays twice."""
        ana, ben = Person(world), Person(world)
        ana.buys()
        world.dashboard.name(ana.customer, ben.id)
        heard = world.pending()
        refused = ben.checkout()
        assert (refused.status, refused.code) == (409, "already_subscribed")
        assert (ana.access, ben.access) == (False, True)
        world.hear(*heard)
        world.runs()
        assert (ana.access, ben.access) == (False, True)

    def test_all_webhooks_lost(self, world: World) -> None:
        """The sweep finds out whose the subscription is."""
        ana, ben = Person(world), Person(world)
        ana.buys()
        world.dashboard.name(ana.customer, ben.id)
        world.pending()
        world.run(command="sweep")
        world.runs()
        assert (ana.access, ben.access) == (False, True)

    def test_news_of_before_comes_late(self, world: World) -> None:
        """Webhooks that still name Ana change nothing any more."""
        ana, ben = Person(world), Person(world)
        started = ana.checkout().json["subscription"]["id"]
        world.remote.control.pay(started)
        before = world.pending()
        world.dashboard.name(ana.customer, ben.id)
        world.hear()
        world.runs()
        world.hear(*before)
        world.runs()
        assert (ana.access, ben.access) == (False, True)

    def test_and_back(self, world: World) -> None:
        ana, ben = Person(world), Person(world)
        ana.buys()
        made = ana.customer
        for owner in (ben, ana):
            world.dashboard.name(made, owner.id)
            world.hear()
            world.runs()
        assert (ana.access, ben.access) == (True, False)
        assert ana.use(1, "k1").json["accepted"] == 1

    def test_the_old_user_may_buy_again(self, world: World) -> None:
        """With a customer of her own: Commet makes a new one."""
        ana, ben = Person(world), Person(world)
        ana.buys()
        made = ana.customer
        world.dashboard.name(made, ben.id)
        world.hear()
        world.runs()
        ana.buys()
        assert (ana.access, ben.access) == (True, True)
        assert ana.customer not in (None, made)

    def test_what_was_used_and_not_delivered(self, world: World) -> None:
        """Ana's usage is parked for a person to decide: not lost, and not on Ben's bill."""
        ana, ben = Person(world), Person(world)
        ana.buys()
        assert ana.use(120, "k1").json["accepted"] == 1
        world.dashboard.name(ana.customer, ben.id)
        world.hear()
        world.runs()
        deliver_usage.handler({}, Context(55))
        assert ben.use(1, "k2").json["accepted"] == 1
        rows = wiring.database().all(
            "select user_id, quantity, state, reason from usage_delivery order by user_id = %s",
            [ben.id],
        )
        assert [tuple(row.values()) for row in rows] == [
            (ana.id, 120, "parked", "customer_not_found")
        ]
        deliver_usage.handler({}, Context(55))
        counted = world.remote.control.customer(ben.id)["subscriptions"][0]
        assert "120" not in str(counted.get("features", ""))

    def test_to_nobody(self, world: World) -> None:
        """The customer has no id of ours any more."""
        ana = Person(world)
        ana.buys()
        world.dashboard.name(ana.customer, None)
        world.hear()
        world.runs()
        assert (ana.access, ana.customer) == (False, None)


class TestLinkedByEmail:
    """Commet gives a customer with the same address the id of whoever checks out."""

    def test_nobody_gets_what_is_another_persons(self, start: Start) -> None:
        """Ben signed up with the address that Ana's customer has at Commet."""
        world = start(repeated_email="link")
        ana, ben = Person(world), Person(world)
        ana.buys()
        made = ana.customer
        httpx.patch(
            f"{world.remote.base_url}/customers/{made}",
            headers={"x-api-key": world.remote.api_key}, json={"email": ben.email},
        ).raise_for_status()  # fmt: skip
        refused = ben.checkout()
        assert (refused.status, refused.code) == (409, "billing_email_taken")
        assert "adopt" in refused.json["detail"]
        world.hear()
        world.runs()
        assert (ana.access, ben.access) == (True, False)
        assert (ana.customer, ben.customer) == (made, None)
        assert ana.use(1, "k1").json["accepted"] == 1
        assert (ana.portal().status, ben.portal().status) == (201, 409)
        assert world.remote.control.customer(made)["customer"]["external_id"] == ana.id

    def test_who_had_a_subscription_before(self, start: Start) -> None:
        """And whom Commet forgot: the portal of the other customer stays closed."""
        world = start(repeated_email="link")
        ben = Person(world)
        ben.buys()
        world.remote.control.reset()
        made = world.dashboard.customer(ben.email)
        world.dashboard.subscribe(made)
        world.remote.control.fault(
            match={"method": "PATCH"}, action={"status": 422, "code": "validation_error"}, times=9
        )
        assert ben.checkout().code == "billing_email_taken"
        refused = ben.portal()
        assert (refused.status, refused.code) == (409, "no_billing_account")
        world.hear()
        world.runs()
        assert (ben.customer, ben.portal().status) == (None, 409)

    def test_commet_is_not_made_to_do_it_again(self, start: Start) -> None:
        """Each time, Ana's customer would be Ben's for a moment."""
        world = start(repeated_email="link")
        ben = Person(world)
        made = world.dashboard.customer(ben.email)
        world.dashboard.subscribe(made)
        for _ in range(3):
            refused = ben.checkout()
            assert (refused.status, refused.code) == (409, "billing_email_taken")
        sent = world.remote.control.requests(method="POST", path="/customers")
        assert len([each for each in sent if each["body"].get("id") == ben.id]) == 1

    @pytest.mark.parametrize("order", ["event first", "answer first", "no event"])
    def test_a_customer_without_our_id(self, start: Start, order: str) -> None:
        """One from the dashboard, with a paid subscription."""
        world = start(repeated_email="link")
        ben = Person(world, proven=False)
        made = world.dashboard.customer(ben.email)
        world.dashboard.subscribe(made)
        world.hear()
        if order == "event first":
            broken = {"status": 500, "code": "internal_error"}
            rule = {"method": "PATCH"}
            world.remote.control.fault(match=rule, action=broken, times=3)
        assert ben.checkout().code == "billing_email_taken"
        if order != "no event":
            world.hear()
        world.pending()
        world.remote.control.clear_faults()
        wiring.database().execute("update customers set due_at = now() where due_at is not null")
        world.runs()
        world.hear() if order != "no event" else world.pending()
        assert (ben.access, ben.customer, ben.portal().status) == (False, None, 409)
        assert world.remote.control.customer(made)["customer"]["external_id"] is None

    def test_a_proven_address(self, start: Start) -> None:
        """Commet told us of a customer without an id of ours: it is the address owner's."""
        world = start(repeated_email="link")
        ben = Person(world)
        made = world.dashboard.customer(ben.email)
        world.dashboard.subscribe(made)
        world.hear()
        assert ben.checkout().code == "already_subscribed"
        world.hear()
        world.runs()
        assert (ben.access, ben.customer, ben.portal().status) == (True, made, 201)

    def test_a_proven_address_and_an_unknown_customer(self, start: Start) -> None:
        """We never heard whose customer it is, so it may be another product's."""
        world = start(repeated_email="link")
        ben = Person(world)
        world.dashboard.customer(ben.email)
        world.pending()
        assert ben.checkout().code == "billing_email_taken"
        world.hear()
        world.runs()
        assert ben.customer is None
        wiring.database().execute(
            "update users set billing_email_taken_at = now() - interval '2 days' where id = %s",
            [ben.id],
        )
        assert ben.checkout().code == "billing_email_taken"

    @pytest.mark.parametrize("told_by", ["answer", "webhook"])
    def test_another_address_than_the_proven_one(
        self, start: Start, told_by: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Eve checks out with Ana's address, and has her own proven one again at once.

        The customer that Commet finds by Ana's address is not Eve's.
        """
        world = start(repeated_email="link")
        eve, ana = Person(world, proven=False), f"{uuid4().hex}@example.com"
        db = wiring.database()
        db.execute(
            "insert into identities (issuer, subject, user_id, created_at, proven_email_key)"
            " values ('https://id.example', %s, %s, now(), %s)",
            [eve.id, eve.id, eve.email],
        )
        made = world.dashboard.customer(ana)
        world.dashboard.subscribe(made)
        world.hear()

        def has(email: str) -> None:
            change = "update users set email = %s, email_key = %s where id = %s"
            db.execute(change, [email, email, eve.id])

        create = Commet.create_customer

        def create_and_change(*args: Any, **kwargs: Any) -> Any:
            answer = create(*args, **kwargs)
            has(eve.email)
            if told_by == "webhook":
                raise CommetUnavailable
            return answer

        has(ana)
        with monkeypatch.context() as patch:
            patch.setattr(Commet, "create_customer", create_and_change)
            assert eve.checkout().status in (409, 503)
        world.hear()
        db.execute("update customers set due_at = now() where due_at is not null")
        world.runs()
        world.hear()
        assert (eve.access, eve.customer) == (False, None)
        assert world.remote.control.customer(made)["customer"]["external_id"] is None

    def test_the_answer_is_lost(self, start: Start) -> None:
        """Commet has linked the customer, and we do not know: the webhook must not give it away."""
        world = start(repeated_email="link")
        ana, ben = Person(world), Person(world)
        ana.buys()
        httpx.patch(
            f"{world.remote.base_url}/customers/{ana.customer}",
            headers={"x-api-key": world.remote.api_key}, json={"email": ben.email},
        ).raise_for_status()  # fmt: skip
        world.hear()
        lost = {"status": 500, "code": "internal_error", "after": True}
        match = {"method": "POST", "path": "/customers"}
        world.remote.control.fault(match=match, action=lost, times=3)
        assert ben.checkout().status == 503
        world.hear()
        assert (ana.access, ben.access, ben.portal().status) == (True, False, 409)
        wiring.database().execute("update customers set due_at = now() where due_at is not null")
        world.runs()
        world.hear()
        assert (ana.access, ben.access) == (True, False)
        assert world.remote.control.customer(ana.customer)["customer"]["external_id"] == ana.id
        assert ben.checkout().code == "billing_email_taken"


class TestAdopt:
    @pytest.mark.parametrize("emails", ["link", "conflict"])
    def test_in_the_dashboard(self, start: Start, emails: str) -> None:
        """Somebody gives the customer the user's id there: that was decided, and counts."""
        world = start(repeated_email=emails)
        ana = Person(world, proven=False)
        made = world.dashboard.customer(ana.email)
        world.dashboard.subscribe(made)
        world.hear()
        assert ana.checkout().code == "billing_email_taken"
        world.remote.control.advance(seconds=600)
        world.dashboard.name(made, ana.id)
        world.hear()
        world.runs()
        assert (ana.access, ana.customer, ana.portal().status) == (True, made, 201)

    @pytest.mark.parametrize("emails", ["link", "conflict"])
    def test_the_way_out(self, start: Start, emails: str) -> None:
        """The operator says whose the customer is; what was paid is there."""
        world = start(repeated_email=emails)
        ana = Person(world, proven=False)
        made = world.dashboard.customer(ana.email)
        world.dashboard.subscribe(made)
        world.hear()
        assert ana.checkout().code == "billing_email_taken"
        adopted = world.run(command="adopt", user=ana.id, customer=made, **BY)
        assert adopted == {"adopted": made, "user": ana.id, "new": True}
        world.hear()
        world.runs()
        assert (ana.access, ana.customer, ana.portal().status) == (True, made, 201)
        assert ana.checkout().code == "already_subscribed"
        kept = "select approved_for, approved_by, approved_note from customers where id = %s"
        row = wiring.database().one(kept, [made])
        assert row is not None
        assert tuple(row.values()) == (ana.id, BY["author"], BY["note"])

    def test_again(self, world: World) -> None:
        """The same command twice changes nothing the second time."""
        ana = Person(world)
        made = world.dashboard.customer(ana.email)
        command = {"command": "adopt", "user": ana.id, "customer": made, **BY}
        assert [world.run(**command)["new"] for _ in range(2)] == [True, False]
        sent = world.remote.control.requests(method="PATCH", path=f"/customers/{made}")
        assert len(sent) == 1

    def test_after_a_crash_half_way(self, world: World) -> None:
        """Commet did it and its answer was lost: the webhook, or the same command, ends it."""
        ana = Person(world)
        ana_at_commet = world.dashboard.customer(ana.email)
        lost = {"status": 500, "code": "internal_error", "after": True}
        world.remote.control.fault(match={"method": "PATCH"}, action=lost, times=3)
        with pytest.raises(Exception):  # noqa: B017, PT011 - Commet is unavailable
            world.run(command="adopt", user=ana.id, customer=ana_at_commet, **BY)
        world.hear()
        assert ana.customer == ana_at_commet

    def test_two_operators_at_once(self, world: World, database_url: str) -> None:
        """One customer for two users: one of them gets it."""
        people = [Person(world), Person(world)]
        made = world.dashboard.customer("somebody@example.com")

        commet, now = wiring.commet(), wiring.now()

        def adopt(person: Person) -> str:
            with own_database(database_url) as mine:
                command = {"command": "adopt", "user": person.id, "customer": made, **BY}
                limit = Deadline.after(20)
                try:
                    commands.obey(mine, command, now=now, commet=lambda: commet, deadline=limit)
                except Conflict as error:
                    return str(error.code)
            return "adopted"

        with ThreadPoolExecutor(2) as pool:
            outcomes = sorted(pool.map(adopt, people))
        world.hear()
        world.runs()
        assert "adopted" in outcomes
        assert sum(person.customer == made for person in people) == 1

    def test_a_customer_of_another_user(self, world: World) -> None:
        ana, ben = Person(world), Person(world)
        ana.buys()
        with pytest.raises(Conflict) as refused:
            world.run(command="adopt", user=ben.id, customer=ana.customer, **BY)
        assert refused.value.code == "customer_of_another"
        assert (ana.access, ben.customer) == (True, None)

    def test_a_second_customer(self, world: World) -> None:
        """Nothing is ever merged."""
        ana = Person(world)
        ana.buys()
        before = ana.customer
        with pytest.raises(Conflict) as refused:
            world.run(
                command="adopt", user=ana.id, customer=world.dashboard.customer("a@b.co"), **BY
            )
        assert (refused.value.code, ana.customer) == ("has_a_customer", before)

    def test_nobody(self, world: World) -> None:
        ana = Person(world)
        made = world.dashboard.customer("a@b.co")
        for user, customer in (("usr_x", made), (ana.id, "cus_x")):
            with pytest.raises(NotFound):
                world.run(command="adopt", user=user, customer=customer, **BY)

    @pytest.mark.parametrize("missing", ["user", "customer", "author", "note"])
    def test_something_is_missing(self, world: World, missing: str) -> None:
        command = {"command": "adopt", "user": "u", "customer": "cus_1", **BY}
        with pytest.raises(InvalidRequest):
            world.run(**{name: value for name, value in command.items() if name != missing})


class TestAnotherKey:
    """The key of another organization on the same database: Commet knows nobody."""

    def test_who_had_a_subscription_buys_again(self, world: World) -> None:
        ana = Person(world)
        ana.buys()
        before = ana.customer
        world.remote.control.reset()
        assert ana.portal().code == "no_billing_account"
        started = ana.checkout()
        assert started.status == 201
        assert ana.customer not in (None, before)
        assert ana.access  # what was paid stays, until its end
        world.remote.control.pay(started.json["subscription"]["id"])
        wiring.database().execute("update subscriptions set checked_at = null, refresh_due = now()")
        world.runs()
        rows = wiring.database().all("select status from subscriptions order by created_at")
        assert [row["status"] for row in rows] == ["canceled", "active"]
        assert (ana.portal().status, ana.use(1, "k1").json["accepted"]) == (201, 1)
        assert ana.checkout().code == "already_subscribed"
        made = world.remote.control.requests(method="POST", path="/customers")
        assert len(made) == 1

    def test_the_address_is_taken_there(self, start: Start) -> None:
        world = start(repeated_email="conflict")
        ana = Person(world)
        ana.checkout()
        world.remote.control.reset()
        world.dashboard.customer(ana.email)
        wiring.database().execute("update checkout_attempt set subscription_id = null")
        refused = ana.checkout()
        assert (refused.status, refused.code) == (409, "billing_email_taken")
