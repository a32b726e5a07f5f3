"""Erasure: what goes at once, what Commet is told, what is left in the end, and who comes back."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import wiring
from billing.accounts import erasing, identities
from billing.accounts.accounts import User
from billing.audit import trail
from billing.credentials.identity_tokens import Identity
from billing.credentials.secrets import Secrets
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import InvalidRequest, NotFound, Unauthenticated
from billing.events import log
from billing.subscriptions import from_webhook, inbox
from billing.usage import accepting
from billing.usage.accepting import UsageEvent
from functions.send_mail import app as send_mail
from standin.testing import Receiver, StandIn
from tests.integration.billing.conftest import add_user, own_database
from tests.integration.billing.racing import Race
from tests.integration.conftest import Context
from tests.integration.functions import calling
from tests.integration.functions.calling import Answer, Store, call, mailed, service_key
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    PASSWORD,
    environment,
    signed_up,
)
from tests.integration.functions.test_debts import (
    Person as Payer,
)
from tests.integration.functions.test_debts import (  # noqa: F401 - fixtures
    _shop,
    box,
    remote,
)

pytestmark = pytest.mark.handlers

KEY = "svc_" + "k" * 40  # the key of test_debts, with every scope
SCOPES = ("usage:write", "usage:correct", "users:manage", "billing:manage", "read")
GIVEN = "customer-17"
EMAIL = "carla.seventeen@example.com"
NAME = "Carla Seventeen"
PAGE = "https://pay.example/page-of-carla"


@pytest.fixture(autouse=True)
def _keys(
    _shop: None,  # noqa: F811
    remote: StandIn,  # noqa: F811
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(database_url, [service_key("app", KEY, *SCOPES)])
    store._values["commet"] = {"api_key": remote.api_key}
    secrets = Secrets(store)
    monkeypatch.setattr(wiring, "secrets", lambda: secrets)


class Person(Payer):
    """Somebody with an account of their own who pays for `usage_pro`."""

    def __init__(self, remote: StandIn, box: Receiver) -> None:  # noqa: F811
        super().__init__(remote, box)
        prove_address(self.id)

    @property
    def token(self) -> str:
        return str(self._token)

    @property
    def email(self) -> str:
        return str(self._email)

    def erase(self, password: str = PASSWORD) -> Answer:
        return call("DELETE", "/account", {"password": password}, token=self.token)


class Customer(Payer):
    """A product's user who pays for `usage_pro`."""

    def __init__(self, remote: StandIn, box: Receiver) -> None:  # noqa: F811
        self._remote, self._box, self._taken = remote, box, 0
        self.id = GIVEN
        assert put().status == 201
        self.run()
        started = self.checkout()
        assert started.status == 201
        self.subscription = started.json["subscription"]["id"]
        self.pay()
        self.hear()

    def checkout(self, plan: str = "usage_pro") -> Answer:
        return call("POST", "/checkout", {"plan_code": plan, "user_id": self.id}, token=KEY)

    def erase(self) -> Answer:
        return call("DELETE", f"/users/{self.id}", token=KEY)


def put(user: str = GIVEN, email: str = EMAIL) -> Answer:
    return call("PUT", f"/users/{user}", {"email": email, "name": NAME}, token=KEY)


def prove_address(user: str) -> None:
    """As the link in the mail does."""
    db = wiring.database()
    db.execute("update users set verified_at = now() where id = %s and own_account", [user])


def move(user: str, token: str, email: str) -> None:
    """Changes the address of an account, and confirms it with the link of the mail."""
    change = {"email": email, "current_password": PASSWORD}
    assert call("PATCH", "/account", change, token=token).status == 200
    link = mailed(user, "email_changing")
    assert call("POST", "/email/verify", {"token": link}, token=token).status == 200


@pytest.fixture
def person(remote: StandIn, box: Receiver) -> Person:  # noqa: F811
    return Person(remote, box)


@pytest.fixture
def customer(remote: StandIn, box: Receiver) -> Customer:  # noqa: F811
    return Customer(remote, box)


def later(hours: int) -> None:
    """Has so much time passed in what erasures wait for."""
    wiring.database().execute(
        "update erasure set asked_at = asked_at - make_interval(hours => %(h)s),"
        " ended_at = ended_at - make_interval(hours => %(h)s),"
        " renamed_at = renamed_at - make_interval(hours => %(h)s),"
        " due_at = case when due_at is not null then now() end",
        {"h": hours},
    )


def finish(who: Payer) -> None:
    """Runs reconcile until the second step is done."""
    who.run()
    who.hear()
    who.deliver()
    wiring.database().execute("delete from invoice_search")
    later(48)
    summary = who.run()
    who.hear()
    assert summary["erasures_finished"] == 1


def rows_of_every_table(db: Database) -> dict[str, str]:
    """All rows as text; bytes both as hexadecimal digits and as the text that they may be."""
    tables = db.all("select tablename from pg_tables where schemaname = 'public'")
    found = {}
    for table in (row["tablename"] for row in tables):
        rows = db.all(f"select to_jsonb(t) as row from {table} t")  # noqa: S608
        text = json.dumps([row["row"] for row in rows], default=str, ensure_ascii=False)
        for part in text.split('"'):
            if part.startswith("\\\\x"):
                text += bytes.fromhex(part[3:]).decode("utf-8", "replace")
        found[table] = text
    return found


def tables_with(db: Database, *secrets: str) -> set[str]:
    return {
        f"{table}: {secret}"
        for table, text in rows_of_every_table(db).items()
        for secret in secrets
        if secret.lower() in text.lower()
    }


def by_provider(db: Database, issued_at: datetime) -> User:
    """The user of a token of an identity provider."""
    identity = Identity(
        issuer="https://issuer.example",
        subject="sub-1",
        email=EMAIL,
        email_verified=True,
        name=NAME,
        issued_at=issued_at,
        authenticated_at=issued_at,
    )
    return identities.user_of(db, identity, wiring.now())


def at_commet(remote: StandIn, subscription: str) -> dict[str, Any]:  # noqa: F811
    """The customer and the status of a subscription."""
    state = remote.control.state()
    found: dict[str, Any]
    (found,) = [each for each in state["subscriptions"] if each["id"] == subscription]
    return found


def test_without_a_password_the_answer_names_its_field(person: Person) -> None:
    answer = call("DELETE", "/account", token=person.token)
    assert (answer.status, answer.json["errors"][0]["field"]) == (422, "password")


class TestAtOnce:
    def test_an_own_account(self, person: Person, db: Database) -> None:
        """Signed out, unknown, and not to be signed in to any more."""
        erased = person.erase()
        assert erased.status == 202
        assert call("GET", "/dashboard", token=person.token).status == 401
        body = {"email": person.email, "password": PASSWORD}
        assert call("POST", "/login", body).code == "invalid_credentials"
        for table in ("sessions", "passwords", "account_tokens", "mails"):
            assert db.value(f"select count(*) from {table}") == 0  # noqa: S608
        assert tables_with(db, person.email) == set()
        assert db.value("select count(*) from audit where action = 'account.erasure_asked'") == 1

    def test_a_wrong_password(self, person: Person, db: Database) -> None:
        """A stolen session alone erases nothing; guesses are limited as those of a sign-in."""
        assert person.erase("not this one").code == "invalid_credentials"
        assert db.value("select count(*) from erasure") == 0
        for _ in range(10):
            person.erase("not this one")
        assert call("GET", "/dashboard", token=person.token).status == 200

    def test_a_users_of_a_product(self, customer: Customer, db: Database) -> None:
        """Again and again; nothing but the id is left, until Commet has another."""
        for _ in range(2):
            assert customer.erase().status == 202
        assert tables_with(db, EMAIL, NAME) == set()
        assert call("GET", f"/users/{GIVEN}/dashboard", token=KEY).code == "unknown_user"
        assert customer.use(1).code == "subscription_required"
        assert customer.checkout().code == "unknown_user"
        assert call("DELETE", "/users/nobody", token=KEY).code == "unknown_user"

    def test_a_user_of_an_identity_provider(self, db: Database) -> None:
        """An older token brings nobody back; a new one brings a new user."""
        now = datetime.now(UTC)
        old = by_provider(db, now - timedelta(minutes=5))
        erasing.erase(db, old.id, by=trail.SOMEBODY)
        assert tables_with(db, EMAIL, NAME, "sub-1") == set()
        with pytest.raises(Unauthenticated):
            by_provider(db, now - timedelta(minutes=5))
        assert tables_with(db, EMAIL, NAME, "sub-1") == set()
        new = by_provider(db, datetime.now(UTC) + timedelta(seconds=1))
        assert new.id != old.id
        assert new.email == EMAIL

    def test_a_scope_of_its_own(self, monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
        put()
        store = Store(database_url, [service_key("app", KEY, "usage:write", "read")])
        secrets = Secrets(store)
        monkeypatch.setattr(wiring, "secrets", lambda: secrets)
        wiring.service_keys.cache_clear()
        assert call("DELETE", f"/users/{GIVEN}", token=KEY).code == "missing_scope"


class TestAtCommet:
    def test_what_was_used_is_billed(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """Delivered, then canceled, then renamed."""
        assert customer.use(130).status == 202
        customer.erase()
        customer.run()
        assert at_commet(remote, customer.subscription)["status"] == "canceled"
        cus = wiring.database().value("select commet_customer_id from users")
        held = wiring.commet().customer(cus, Deadline.after(20))
        assert held.external_id == wiring.database().value("select pseudonym from erasure")
        assert (held.email or "").endswith("@erased.invalid")
        assert NAME not in json.dumps(remote.control.customer(cus))
        usage = wiring.database().one("select state, quantity from usage_delivery")
        assert usage == {"state": "sent", "quantity": 130}

    def test_by_an_operator(self, customer: Customer, db: Database) -> None:
        """By name; the note stays out of the trail, and earlier notes about the person go."""
        command = {"command": "repair_drift", "user": GIVEN, "author": "ann"}
        customer.run(**command, note=f"{NAME} called")
        assert tables_with(db, f"{NAME} called") != set()
        answer = customer.run(command="erase", user=GIVEN, author="ann", note=f"{NAME} wrote")
        assert answer == {"erased": GIVEN}
        asked = db.one("select actor, user_id from audit where action = 'account.erasure_asked'")
        assert asked == {"actor": "ann", "user_id": GIVEN}
        assert tables_with(db, NAME) == set()
        with pytest.raises(InvalidRequest):
            customer.run(command="erase", user=GIVEN)

    def test_down(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """Tried again until Commet has confirmed."""
        customer.use(130)
        remote.control.fault(match={}, action={"status": 503}, times=None)
        customer.erase()
        customer.run()
        db = wiring.database()
        assert db.one("select ended_at, renamed_at from erasure") == {
            "ended_at": None, "renamed_at": None
        }  # fmt: skip
        later(30)
        assert customer.run()["erasures_stuck"] == 1
        remote.control.clear_faults()
        for _ in range(2):
            db.execute("update usage_delivery set due_at = now(), waits = false")
            later(0)
            customer.deliver()
            customer.run()
        assert at_commet(remote, customer.subscription)["status"] == "canceled"
        assert db.value("select renamed_at is not null from erasure")

    def test_an_address_that_is_refused(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """Told again every hour until Commet takes it; rings meanwhile, and nothing is finished."""
        db = wiring.database()
        cus = db.value("select commet_customer_id from users")
        remote.control.fault(
            match={"method": "PATCH", "path": "/customers/*"},
            action={"status": 422, "code": "validation_error"}, times=None,
        )  # fmt: skip
        customer.erase()
        customer.run()
        db.execute("delete from invoice_search")
        db.execute("update erasure set ended_at = now(), renamed_at = now()")
        assert db.value("select due_at > now() + interval '59 minutes' from contact_change")
        later(48)
        summary = customer.run()
        assert (summary["erasures_stuck"], summary["erasures_finished"]) == (1, 0)
        remote.control.clear_faults()
        db.execute("update contact_change set due_at = now()")
        later(0)
        assert customer.run()["erasures_stuck"] == 0
        held = wiring.commet().customer(cus, Deadline.after(20))
        assert (held.email or "").endswith("@erased.invalid")

    def test_an_address_of_a_customer_that_is_gone(
        self,
        customer: Customer,
        remote: StandIn,  # noqa: F811
    ) -> None:
        remote.control.fault(
            match={"method": "PATCH", "path": "/customers/*"},
            action={"status": 404, "code": "customer_not_found"}, times=None,
        )  # fmt: skip
        customer.erase()
        customer.run()
        later(48)
        assert customer.run()["erasures_stuck"] == 0

    def test_sixty_days_of_refusals(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """Then nothing is left here, and Commet is still asked, until it has forgotten, too."""
        db = wiring.database()
        cus = db.value("select commet_customer_id from users")
        refuses = {"status": 422, "code": "validation_error"}
        remote.control.fault(
            match={"method": "POST", "path": "/subscriptions/*"}, action=refuses, times=None
        )
        for method in ("PUT", "PATCH"):
            remote.control.fault(
                match={"method": method, "path": "/customers/*"}, action=refuses, times=None
            )
        customer.erase()
        customer.run()
        later(60 * 24)
        summary = customer.run()
        assert (summary["erasures_finished"], summary["erasures_stuck"]) == (1, 1)
        assert tables_with(db, GIVEN, EMAIL, NAME) == set()
        later(0)
        assert customer.run()["erasures_stuck"] == 1
        # The id is not free: Commet would call the new user's customer like the old one.
        assert put().code == "being_erased"
        remote.control.clear_faults()
        db.execute("update contact_change set due_at = now()")
        later(0)
        summary = customer.run()
        assert (summary["erasures_finished"], summary["erasures_stuck"]) == (0, 0)
        assert at_commet(remote, customer.subscription)["status"] == "canceled"
        held = wiring.commet().customer(cus, Deadline.after(20))
        assert held.external_id == db.value("select pseudonym from erasure")
        assert (held.email or "").endswith("@erased.invalid")
        assert db.value("select due_at from erasure") is None
        assert put().status == 201

    def test_a_checkout_that_is_paid_later(self, customer: Customer, remote: StandIn) -> None:  # noqa: F811
        """What begins after the erasure is canceled as well."""
        customer.cancel()
        customer.hear()
        started = customer.checkout()
        assert started.status == 201
        customer.erase()
        customer.run()
        later(0)
        customer.run()
        customer.subscription = started.json["subscription"]["id"]
        customer.pay()
        customer.hear()
        customer.run()
        assert at_commet(remote, customer.subscription)["status"] == "canceled"


class TestSecondStep:
    def fill(self, customer: Customer) -> None:
        """Writes the id, the address and the name wherever a caller may."""
        texts = {"who": f"{NAME} {EMAIL} {GIVEN}"}
        for n in range(3):
            body = {
                "user_id": GIVEN, "feature": "storage", "quantity": 40,
                "idempotency_key": f"{GIVEN}-{EMAIL}-{n}", "properties": texts,
            }  # fmt: skip
            assert call("POST", "/usage", body, token=KEY).status == 202
        correction = {
            "user_id": GIVEN, "feature": "storage", "quantity": "-1", "reason": f"{NAME} called",
            "idempotency_key": f"{EMAIL}-c",
        }  # fmt: skip
        assert call("POST", "/usage/corrections", correction, token=KEY).status == 202
        hold = {
            "user_id": GIVEN, "feature": "storage", "quantity": 1, "properties": texts,
            "idempotency_key": f"{EMAIL}-r",
        }  # fmt: skip
        assert call("POST", "/usage/reservations", hold, token=KEY).status == 201
        call("PUT", f"/users/{GIVEN}/spend-limit", {"amount": "50"}, token=KEY)
        call("POST", "/portal", {"user_id": GIVEN}, token=KEY)
        customer.run(
            command="adopt", user=GIVEN, author="ann", note=f"{NAME} wrote from {EMAIL}",
            customer=wiring.database().value("select commet_customer_id from users"),
        )  # fmt: skip
        customer.hear()

    def test_nothing_of_the_person_is_left(self, customer: Customer, db: Database) -> None:
        self.fill(customer)
        assert len(tables_with(db, GIVEN)) > 10
        assert customer.erase().status == 202
        finish(customer)
        assert tables_with(db, GIVEN, EMAIL, NAME) == set()
        assert db.value("select sum(quantity) from usage_event") == 119
        assert db.value("select id from users where id like 'usr\\_%%'") is not None
        assert db.value("select user_id from usage_period") == db.value("select id from users")

    def test_an_id_of_ours_stays(self, person: Person, db: Database) -> None:
        """It is random. What was written into the ledger goes all the same."""
        body = {
            "user_id": person.id, "feature": "storage", "quantity": 1,
            "idempotency_key": f"{person.email}-1", "properties": {"who": person.email},
        }  # fmt: skip
        call("POST", "/usage", body, token=KEY)
        person.erase()
        finish(person)
        assert tables_with(db, person.email) == set()
        assert db.value("select id from users") == person.id

    def test_a_large_ledger_takes_several_steps(
        self, customer: Customer, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fill(customer)
        customer.erase()
        monkeypatch.setattr(erasing, "_AT_ONCE", 1)
        finish(customer)
        assert tables_with(db, GIVEN, EMAIL, NAME) == set()

    def test_it_ends_in_time(self, customer: Customer, db: Database) -> None:
        """No statement is begun that might outlast the run."""
        self.fill(customer)
        customer.erase()
        assert not erasing.replace(db, GIVEN, Deadline.after(5))
        assert db.value("select count(*) from usage_event where user_id = %s", [GIVEN]) > 0
        assert erasing.replace(db, GIVEN, Deadline.after(60))

    def test_it_waits_for_what_is_open(self, customer: Customer, db: Database) -> None:
        """A dispute keeps it open; sixty days end the waiting."""
        customer.erase()
        customer.run()
        db.execute(
            "insert into payment_trouble (user_id, kind, about, opened_at, changed_at)"
            " values (%s, 'dispute', 'txn_1', now(), now())",
            [GIVEN],
        )
        db.execute("delete from invoice_search")
        later(48)
        assert customer.run()["erasures_finished"] == 0
        later(60 * 24)
        assert customer.run()["erasures_finished"] == 1
        assert tables_with(db, GIVEN) == set()


class TestLateWebhooks:
    @pytest.mark.parametrize("step", [1, 2])
    @pytest.mark.parametrize("named", ["given", "customer"])
    def test_bring_nothing_back(
        self, customer: Customer, db: Database, step: int, named: str
    ) -> None:
        """Of every kind, by the id that was given or by Commet's: booked, and nothing kept."""
        cus = db.value("select commet_customer_id from users")
        customer.erase()
        if step == 2:
            finish(customer)
        seen = tables_with(db, EMAIL, NAME)
        for n, kind in enumerate((*from_webhook.HANDLED, "invoice.sent", "made.up")):
            data = {
                "subscriptionId": customer.subscription, "invoiceId": "inv_9", "status": "canceled",
                "paymentTransactionId": "txn_9", "amount": 100, "currency": "USD",
                "customerEmail": EMAIL, "customerName": NAME,
                "customer": {"email": EMAIL, "fullName": NAME, "name": NAME},
                "recoveryUrl": PAGE, "checkoutUrl": PAGE,
            }  # fmt: skip
            if kind.startswith("customer.") and kind != "customer.state_changed":
                data |= {"id": cus, "email": EMAIL, "fullName": NAME}
            else:
                data |= {"customerId": cus}
            if named == "given":
                data |= {"externalId": GIVEN}
            body = json.dumps(
                {"id": f"whev_{step}_{n}", "event": kind, "mode": "sandbox", "data": data,
                 "timestamp": wiring.now().isoformat()}
            ).encode()  # fmt: skip
            receipt = inbox.receive(db, body, mode="sandbox", now=wiring.now())
            assert receipt.outcome in ("applied", "ignored"), kind
        assert seen == set()
        assert tables_with(db, EMAIL, NAME, PAGE) == set()
        if step == 2:
            assert tables_with(db, GIVEN) == set()
        assert db.value("select count(*) from users") == 1
        assert db.value("select commet_customer_id from users") == cus

    def test_one_that_cannot_be_applied(
        self, customer: Customer, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Waits for the next run without its personal data, and is applied then."""
        customer.erase()
        body = json.dumps(
            {"id": "whev_x", "event": "subscription.past_due", "mode": "sandbox",
             "timestamp": wiring.now().isoformat(),
             "data": {"subscriptionId": customer.subscription, "status": "past_due",
                      "externalId": GIVEN, "customerEmail": EMAIL, "customerName": NAME}}
        ).encode()  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(inbox, "_change_of", lambda *_: 1 / 0)
            receipt = inbox.receive(db, body, mode="sandbox", now=wiring.now())
        assert receipt.outcome == "failed"
        assert tables_with(db, EMAIL, NAME) == set()
        customer.run()
        assert db.value("select status from webhooks where id = 'whev_x'") == "applied"
        assert db.value("select payload is null from webhooks where id = 'whev_x'")


def trials(token: str | None) -> set[int]:
    """How many days of trial the plans are shown with."""
    plans = call("GET", "/plans", token=token).json["plans"]
    return {price["trial_days"] for plan in plans for price in plan["prices"]}


class TestComingBack:
    def test_with_the_same_address(self, person: Person) -> None:
        """A new account, with an id of its own and nothing of the old one."""
        person.erase()
        up = call("POST", "/signup", {"email": person.email, "password": PASSWORD})
        assert up.status == 201
        assert up.json["user"]["id"] != person.id
        token = up.json["session"]["token"]
        assert call("GET", "/dashboard", token=token).json["subscription"] is None

    def test_with_the_same_given_id(self, customer: Customer, db: Database) -> None:
        """Once no webhook can mistake the new user for the old one."""
        customer.use(5, key="k1")
        customer.erase()
        assert put().code == "being_erased"
        customer.run()
        customer.hear()
        assert put().code == "being_erased"
        later(6)
        again = put()
        assert (again.status, again.json["user"]["id"]) == (201, GIVEN)
        assert call("GET", f"/users/{GIVEN}/dashboard", token=KEY).json["subscription"] is None
        assert db.value("select count(*) from usage_event where user_id = %s", [GIVEN]) == 0
        started = customer.checkout()
        assert started.status == 201
        assert started.json["subscription"]["id"] != customer.subscription

    def test_the_count_of_events_goes_on(self, customer: Customer, db: Database) -> None:
        """A receiver keeps the largest sequence: it must not take the new user's events for old."""
        customer.erase()
        customer.run()
        customer.hear()
        log.place(db)
        before = db.value("select max(sequence) from outgoing_event where user_id = %s", [GIVEN])
        later(6)
        assert put().status == 201
        log.place(db)
        [registered] = log.after(db, 0, 10, None, GIVEN)
        assert (registered.type, registered.sequence) == ("user.registered", before + 1)

    def test_its_events_leave_under_its_id_first(self, customer: Customer, db: Database) -> None:
        """Else the product would hear of the erasure of somebody whom it does not know."""
        db.execute(
            "insert into event_endpoint (id, slot, url, description)"
            " values ('ep_' || repeat('a', 24), 1, 'https://a.example/hooks', '')"
        )
        customer.erase()
        customer.run()
        customer.hear()
        later(6)
        assert put().code == "being_erased"  # no run has placed the events yet
        log.place(db)
        assert put().code == "being_erased"  # the endpoint has not got them yet
        db.execute("update event_delivery set state = 'sent', ended_at = now()")
        assert put().status == 201

    def test_with_a_large_ledger(
        self, customer: Customer, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request does what fits into its time; the next one goes on."""
        monkeypatch.setattr(erasing, "_AT_ONCE", 1)
        monkeypatch.setattr(erasing, "_MOST_STATEMENTS", 2)
        for n in range(4):
            customer.use(1, key=f"k{n}")
        customer.erase()
        customer.run()
        customer.hear()
        later(6)
        answers = [put() for _ in range(4)]
        assert [each.code for each in answers[:2]] == ["being_erased"] * 2
        assert answers[-1].status == 200
        assert db.value("select count(*) from usage_event where user_id = %s", [GIVEN]) == 0

    @pytest.mark.parametrize("second_step", [False, True])
    def test_a_debtor_is_a_debtor(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
        second_step: bool,  # noqa: FBT001
    ) -> None:
        person.lost()
        assert person.checkout().code == "debt_open"
        person.sign_in()
        person.erase()
        if second_step:
            wiring.database().execute("update usage_delivery set resolved_at = now()")
            finish(person)
        up = call("POST", "/signup", {"email": person.email.upper(), "password": PASSWORD}).json
        prove_address(up["user"]["id"])
        token = up["session"]["token"]
        refused = call("POST", "/checkout", {"plan_code": "usage_pro"}, token=token)
        assert (refused.status, refused.code) == (402, "debt_open")
        assert refused.json["amount"] == "118988.10"
        remote.control.pay_link(person.link())
        assert "payment_link.completed" in person.hear()
        assert call("POST", "/checkout", {"plan_code": "usage_pro"}, token=token).status == 201

    def test_a_new_app_secret_forgets_nobody(
        self, person: Person, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or a stolen one could not be changed."""
        person.lost()
        person.sign_in()
        person.erase()
        monkeypatch.setattr(calling, "APP_SECRET", "another one")
        secrets = Secrets(Store(database_url, [service_key("app", KEY, *SCOPES)]))
        monkeypatch.setattr(wiring, "secrets", lambda: secrets)
        for each in (wiring.people, wiring.links, wiring.attempts, wiring.signing_in):
            each.cache_clear()
        up = call("POST", "/signup", {"email": person.email, "password": PASSWORD}).json
        prove_address(up["user"]["id"])
        assert wiring.database().value("select user_id from debt") == up["user"]["id"]

    def test_only_who_proves_the_address_inherits(self, person: Person, db: Database) -> None:
        """Else anybody could take somebody's debt over, or see that there is one."""
        person.lost()
        person.sign_in()
        person.erase()
        up = call("POST", "/signup", {"email": person.email, "password": PASSWORD}).json
        assert db.value("select user_id from debt") == person.id
        prove_address(up["user"]["id"])
        assert db.value("select user_id from debt") == up["user"]["id"]

    def test_a_stranger_makes_nobody_forgotten(self, person: Person, db: Database) -> None:
        """Whoever signs up with an address and leaves without proving it changes nothing."""
        person.lost()
        person.sign_in()
        person.erase()
        body = {"email": person.email, "password": PASSWORD}
        stranger = call("POST", "/signup", body).json
        token = stranger["session"]["token"]
        assert call("DELETE", "/account", {"password": PASSWORD}, token=token).status == 202
        up = call("POST", "/signup", body).json
        prove_address(up["user"]["id"])
        assert db.value("select user_id from debt") == up["user"]["id"]
        token = up["session"]["token"]
        assert (
            call("POST", "/checkout", {"plan_code": "usage_pro"}, token=token).code == "debt_open"
        )

    def test_a_link_of_the_old_account_is_paid(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
        db: Database,
    ) -> None:
        """Its page was open all the time. Whoever has paid is not told to pay, and paid once."""
        person.lost()
        assert person.checkout().code == "debt_open"
        link = person.link()
        person.sign_in()
        person.erase()
        up = call("POST", "/signup", {"email": person.email, "password": PASSWORD}).json
        prove_address(up["user"]["id"])
        remote.control.pay_link(link)
        person.hear()
        token = up["session"]["token"]
        assert call("POST", "/checkout", {"plan_code": "usage_pro"}, token=token).status == 201
        assert db.one("select ended_by, user_id from debt") == {
            "ended_by": "paid", "user_id": up["user"]["id"]
        }  # fmt: skip
        assert db.value("select sum(overpaid) from debt_link") == 0

    def test_a_given_id_that_is_used_again_early(
        self,
        customer: Customer,
        remote: StandIn,  # noqa: F811
    ) -> None:
        """While the dispute is open: the debt that comes of it is the same person's."""
        transaction = remote.control.state()["transactions"][0]
        remote.control.dispute(transaction["id"])
        customer.hear()
        customer.erase()
        customer.run()
        customer.hear()
        later(6)
        assert put().status == 201
        remote.control.resolve_dispute(transaction["id"], outcome="lost")
        customer.hear()
        customer.run()
        refused = customer.checkout()
        assert (refused.code, refused.json.get("amount")) == ("debt_open", "34.51")

    def test_a_dispute_that_is_lost_later(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        """Its amount is known from the account that is gone."""
        transaction = remote.control.state()["transactions"][0]
        remote.control.dispute(transaction["id"])
        person.hear()
        person.erase()
        person.run()
        up = call("POST", "/signup", {"email": person.email, "password": PASSWORD}).json
        prove_address(up["user"]["id"])
        remote.control.resolve_dispute(transaction["id"], outcome="lost")
        person.hear()
        person.run()
        token = up["session"]["token"]
        refused = call("POST", "/checkout", {"plan_code": "usage_pro"}, token=token)
        assert (refused.status, refused.code) == (402, "debt_open")
        assert refused.json["amount"] == "34.51"

    def test_who_it_is_follows_the_proven_address(self, person: Person, db: Database) -> None:
        """Signed up with another address, and changed to the old one."""
        person.lost()
        person.sign_in()
        person.erase()
        other = {"email": f"other-{person.email}", "password": PASSWORD}
        up = call("POST", "/signup", other).json
        move(up["user"]["id"], up["session"]["token"], person.email)
        token = up["session"]["token"]
        assert (
            call("POST", "/checkout", {"plan_code": "usage_pro"}, token=token).code == "debt_open"
        )
        assert db.value("select user_id from debt") == up["user"]["id"]

    def test_an_address_that_was_given_up(self, person: Person, db: Database) -> None:
        """Its next owner is another person; at the next address the debtor is known."""
        first, second = person.email, f"next-{person.email}"
        person.lost()
        person.sign_in()
        move(person.id, person.token, second)
        person.erase()
        stranger = call("POST", "/signup", {"email": first, "password": PASSWORD}).json
        prove_address(stranger["user"]["id"])
        assert db.value("select user_id from debt") == person.id
        back = call("POST", "/signup", {"email": second, "password": PASSWORD}).json
        prove_address(back["user"]["id"])
        assert db.value("select user_id from debt") == back["user"]["id"]

    @pytest.mark.parametrize("way", ["password", "reset", "link"])
    def test_an_address_that_an_operator_set(self, person: Person, db: Database, way: str) -> None:
        """The account is signed out, and known by the address once somebody signs in with it."""
        first, second = person.email, f"next-{person.email}"
        person.lost()
        said = {"command": "verify_address", "user": person.id, "author": "a", "note": "b"}
        send_mail.handler(said | {"address": second}, Context(55))
        assert person.erase().status == 401
        body = {"email": second, "password": PASSWORD}
        if way == "reset":
            call("POST", "/password/forgot", {"email": second})
            token = mailed(person.id, "reset_password")
            call("POST", "/password/reset", {"token": token, "password": PASSWORD})
        elif way == "link":
            wiring.links().send_sign_in(person.id, wiring.now())
            token = mailed(person.id, "sign_in_link")
            assert call("POST", "/login/link", {"token": token}).status == 200
        else:
            assert call("POST", "/login", body).status == 200
        erasing.erase(db, person.id, by=trail.SOMEBODY)
        for email, owes in ((first, False), (second, True)):
            up = call("POST", "/signup", {"email": email, "password": PASSWORD}).json
            prove_address(up["user"]["id"])
            assert (db.value("select user_id from debt") == up["user"]["id"]) is owes
        with pytest.raises(NotFound):
            send_mail.handler(said | {"address": f"more-{first}"}, Context(55))

    def test_what_two_accounts_leave_is_added_up(self, person: Person, db: Database) -> None:
        """Also what the second one did not inherit; later debts of the first are the second's."""
        add_user(db, "usr_old")
        erasing.erase(db, "usr_old", by=trail.SOMEBODY)
        db.execute(
            "insert into remembered (person, user_id, had_trial, free_until)"
            " select person, 'usr_old', true, '2090-01-01' from users where id = %s",
            [person.id],
        )
        person.erase()
        kept = db.one("select user_id, had_trial, free_until::date::text as day from remembered")
        assert kept == {"user_id": person.id, "had_trial": True, "day": "2090-01-01"}
        assert db.value("select heir from erasure where user_id = 'usr_old'") == person.id

    def test_an_heir_gets_another_id(self, customer: Customer, db: Database) -> None:
        """The one who came back leaves, too: what the first one owes is still the same person's."""
        owe = "select open_debt(%s, 'lost_dispute', %s, 9, 'usd', now())"
        db.execute(owe, [GIVEN, "txn_1"])
        for _ in range(2):
            customer.erase()
            customer.run()
            later(6)
            assert put().status == 201
        customer.erase()
        customer.run()
        later(6)
        erasing.replace(db, GIVEN, Deadline.after(30))
        first, *_, last = (row["user_id"] for row in db.all(
            "select user_id from erasure order by asked_at"
        ))  # fmt: skip
        db.execute(owe, [first, "txn_2"])
        for _ in range(2):
            assert customer.run()["steps_failed"] == 0
        assert {row["user_id"] for row in db.all("select user_id from debt")} == {last}
        assert tables_with(db, GIVEN) == set()

    def test_no_second_trial_and_no_second_allowance(self, person: Person, db: Database) -> None:
        """Before and after the second step."""
        db.execute("update subscriptions set had_trial = true where user_id = %s", [person.id])
        db.execute(
            "update usage_period set is_free = true, ends_at = %s where user_id = %s",
            [wiring.now().replace(year=2090), person.id],
        )
        person.erase()
        for final in (False, True):
            if final:
                finish(person)
            email = person.email
            up = call("POST", "/signup", {"email": email, "password": PASSWORD}).json
            prove_address(up["user"]["id"])
            token = up["session"]["token"]
            assert call("GET", "/plans").status == 200  # the catalogue, with a trial from now on
            db.execute(
                "update plans_cache set catalogue = regexp_replace(catalogue::text,"
                """ '"trial_days": \\d+', '"trial_days": 14', 'g')::jsonb"""
            )
            assert trials(None) == {14}
            assert trials(token) == {0}
            free = call("POST", "/checkout", {"plan_code": "free"}, token=token)
            assert (free.status, free.code) == (409, "free_period_used")
            db.execute("delete from sessions")
            db.execute("delete from passwords where user_id = %s", [up["user"]["id"]])
            db.execute("delete from users where id = %s", [up["user"]["id"]])


class TestPages:
    def test_where_the_person_could_pay_is_forgotten(self, person: Person, db: Database) -> None:
        """At once; nor is it kept where an answer of Commet brings it later."""
        person.lost()
        assert person.checkout().code == "debt_open"
        db.execute("update subscriptions set checkout_url = %s", [PAGE])
        db.execute(
            "insert into payment_trouble (user_id, kind, about, opened_at, changed_at,"
            " recovery_url) values (%s, 'failed_payment', 'inv_9', now(), now(), %s)",
            [person.id, PAGE],
        )
        person.sign_in()
        assert person.erase().status == 202
        page = "select url from debt_link"
        assert (tables_with(db, PAGE), db.value(page)) == (set(), None)
        db.execute("update debt_link set url = %s", [PAGE])
        assert tables_with(db, PAGE) == set()


class TestAtTheSameMoment:
    @pytest.fixture
    def erase(self, customer: Customer) -> Callable[[Database], None]:
        assert customer.id == GIVEN
        return lambda db: erasing.erase(db, GIVEN, by=trail.SOMEBODY)

    def test_usage(
        self,
        erase: Callable[[Database], None],
        race: Race,
    ) -> None:
        """What was accepted before is delivered; what waited for the erasure is refused."""
        race.first(erase)
        event = UsageEvent(
            user_id=GIVEN, feature="storage", quantity=Decimal(1), idempotency_key="k1"
        )
        use = race.second(
            lambda db: accepting.accept(db, [event], rules=wiring.rules(), now=wiring.now())
        )
        assert use.waits
        race.commit()
        assert [verdict.code for verdict in use.answer] == ["subscription_required"]

    def test_a_second_erasure(
        self,
        erase: Callable[[Database], None],
        race: Race,
        db: Database,
    ) -> None:
        race.first(erase)
        second = race.second(erase)
        assert second.waits
        race.commit()
        second.answer  # noqa: B018 - raises what went wrong
        assert db.value("select count(*) from erasure") == 1

    @pytest.mark.parametrize("first", ["webhook", "erasure"])
    @pytest.mark.parametrize("kind", ["invoice.sent", "subscription.updated"])
    def test_a_webhook(
        self,
        customer: Customer,
        erase: Callable[[Database], None],
        race: Race,
        first: str,
        kind: str,
    ) -> None:
        """Whichever comes first, nothing of the content is kept."""
        body = json.dumps(
            {"id": "whev_z", "event": kind, "mode": "sandbox",
             "timestamp": wiring.now().isoformat(),
             "data": {"subscriptionId": customer.subscription, "status": "active",
                      "externalId": GIVEN, "customerEmail": EMAIL}}
        ).encode()  # fmt: skip

        def hear(db: Database) -> None:
            inbox.receive(db, body, mode="sandbox", now=wiring.now())

        works = [hear, erase] if first == "webhook" else [erase, hear]
        race.first(works[0])
        second = race.second(works[1])
        race.commit()
        second.answer  # noqa: B018 - raises what went wrong
        assert tables_with(wiring.database(), EMAIL, NAME) == set()

    def test_two_second_steps(
        self,
        erase: Callable[[Database], None],
        race: Race,
        db: Database,
    ) -> None:
        erase(db)
        db.execute("update usage_period set closed_at = now()")
        race.first(lambda first: erasing.replace(first, GIVEN, Deadline.after(20)))
        second = race.second(lambda other: erasing.replace(other, GIVEN, Deadline.after(20)))
        assert second.waits
        race.commit()
        second.answer  # noqa: B018 - raises what went wrong
        assert db.value("select count(*) from audit where action = 'account.erased'") == 1

    def test_debts_from_two_places(self, race: Race, db: Database) -> None:
        """Three dollars that come along and three that arise together pass the floor of five."""
        for user in ("usr_old", "usr_new"):
            add_user(db, user)
        db.execute("insert into debt_floor values ('usd', 5) on conflict do nothing")
        owe = "select open_debt(%s, 'lost_usage', '1', 3, 'usd', now())"
        db.execute(owe, ["usr_old"])
        race.first(lambda first: first.execute(owe.replace("'1'", "'2'"), ["usr_new"]))
        moved = race.second(lambda other: other.execute("select move_debts('usr_old', 'usr_new')"))
        race.commit()
        moved.answer  # noqa: B018 - raises what went wrong
        assert db.value("select has_debt from users where id = 'usr_new'") is True
        assert db.value("select has_debt from users where id = 'usr_old'") is False

    def test_many(self, customer: Customer, database_url: str) -> None:
        """Usage, webhooks, checkouts and erasures at once: nothing fails, nothing is left."""
        body = json.dumps(
            {"id": "whev_y", "event": "subscription.updated", "mode": "sandbox",
             "timestamp": wiring.now().isoformat(),
             "data": {"subscriptionId": customer.subscription, "status": "active",
                      "externalId": GIVEN, "customerEmail": EMAIL}}
        ).encode()  # fmt: skip

        def act(n: int) -> None:
            with own_database(database_url) as db:
                if n % 2:
                    inbox.receive(
                        db, body.replace(b"whev_y", b"whev_%d" % n), mode="sandbox",
                        now=wiring.now(),
                    )  # fmt: skip
                else:
                    erasing.erase(db, GIVEN, by=trail.SOMEBODY)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(act, range(16)))
        assert tables_with(wiring.database(), EMAIL, NAME) == set()
