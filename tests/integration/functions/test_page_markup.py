"""Markup in what people, products, operators and Commet wrote: each place shows it as text.

Each text is another one, so that a place where one is missing is noticed, too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from markupsafe import escape

from billing import wiring
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.credentials.secrets import Secrets
from standin.catalogue import DEFAULT_FILE
from standin.testing import Receiver, StandIn, standin
from tests.integration.functions.calling import Store, call, service_key
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    PASSWORD,
    address,
    environment,
)
from tests.integration.functions.test_debts import KEY, _shop, box  # noqa: F401 - fixtures
from tests.integration.functions.test_ops_page import (
    OFF_AT,
    endpoint,
    joined,
    looked,
    parked,
    run,
)
from tests.integration.functions.test_pages import Person
from tests.integration.functions.visiting import Shown, Visitor

pytestmark = pytest.mark.handlers


def nasty(what: str) -> str:
    """A text that does harm where it is not escaped. `what` says which one it is."""
    return f"""<script>alert("{what}")</script>'"&<b>"""


def check(shown: Shown, *said: str) -> None:
    """Every one of these texts is on the page, and none is markup."""
    assert said
    missing = [what for what in said if str(escape(nasty(what))) not in shown.html]
    assert (shown.status, missing) == (200, [])
    clean(shown)


def clean(shown: Shown) -> None:
    """No text has become markup."""
    for harm in ("<script>alert", "<b>", 'alert("'):
        assert harm not in shown.html, harm


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[StandIn]:
    """Sells plans whose names, descriptions, features and units have markup."""
    content = json.loads(DEFAULT_FILE.read_text(encoding="utf-8"))
    for feature in content["features"]:
        feature["name"] = nasty(feature["code"])
        feature["unitName"] = feature["unitName"] and nasty("unit")
    for plan in content["plans"]:
        plan["name"], plan["description"] = nasty(plan["code"]), nasty("description")
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with standin(catalogue=file) as running:
        yield running


@pytest.fixture
def person(remote: StandIn, box: Receiver) -> Person:  # noqa: F811
    return Person(remote, box)


def report(person: Person, key: str, **fields: object) -> None:
    body = {"user_id": person.id, "feature": "storage", "quantity": "1", "idempotency_key": key}
    answer = call("POST", "/usage", body | fields, token=KEY)
    assert answer.status == 202, answer.text


class TestPeople:
    def test_names_of_plans_features_and_units(self, person: Person) -> None:
        visitor = Visitor()
        sold = ("usage_pro", "usage_max", "free", "description", "storage", "priority_support")
        check(visitor.get("/"), *sold, "unit")
        check(visitor.get("/?q_storage=150"), *sold, "unit")
        check(visitor.get("/app/signup?plan=usage_pro"), "usage_pro")
        see = person.browser.get
        check(see("/"), *sold)
        check(see("/app"), "usage_pro", "storage", "priority_support", "unit")
        check(see("/app/checkout?plan=usage_max"), "usage_max", "storage", "unit")
        check(see("/app/billing"), "usage_pro")
        check(see("/app/billing/cancel"), "usage_pro")
        form = see("/app/checkout?plan=usage_max").form("/app/checkout")
        preview = person.browser.follow(person.browser.post(form.action, form.values))
        check(preview, "usage_max", "storage", "priority_support", "unit")
        form = see("/app/checkout?plan=free").form("/app/checkout")
        preview = person.browser.follow(person.browser.post(form.action, form.values))
        booked = person.browser.post("/app/checkout", preview.form("/app/checkout").values)
        check(person.browser.follow(booked), "free")
        (invoice,) = (each for each in see("/app/billing").links if "/invoices/" in each)
        check(see(invoice), "usage_pro")

    def test_notices(self, person: Person) -> None:
        """The plan and the feature of the banners."""
        assert person.browser.post("/app/billing/cancel").status == 303
        check(person.browser.get("/app/billing"), "usage_pro")
        run("update entitlements set overage_enabled = false, included = 1")
        report(person, "k")
        check(person.browser.get("/app"), "storage")
        person.browser.post("/app/limit", {"amount": "0"})
        run("update entitlements set overage_enabled = true")
        check(person.browser.get("/app"), "storage")
        run("update subscriptions set status = 'pending_payment', cancel_at_period_end = false")
        check(person.browser.get("/app"), "usage_pro")
        run("update subscriptions set status = 'paused'")
        check(person.browser.get("/app"), "usage_pro")
        run("update subscriptions set status = %s", nasty("status"))
        check(person.browser.get("/app"), "status")

    def test_the_account(self, person: Person) -> None:
        """Name, addresses, and the devices of sessions."""
        saved = person.browser.post("/app/account/name", {"name": nasty("name")})
        assert saved.status == 303
        run("update users set email = %s", nasty("address"))
        run("update sessions set device = %s", nasty("device"))
        shown = person.browser.get("/app/account")
        check(shown, "name", "address", "device")
        for path in ("/", "/app", "/app/usage", "/app/billing", "/app/account/delete"):
            check(person.browser.get(path), "address")  # beside the button to sign out
        wrong = {"email": nasty("typed"), "current_password": "x"}
        refused = person.browser.post("/app/account/email", wrong)
        assert str(escape(nasty("typed"))) in refused.html
        clean(refused)

    def test_an_address_to_be_confirmed(self) -> None:
        _, browser = joined(address(), verified=False)
        run("update users set email = %s", nasty("address"))
        check(browser.get("/app/confirm"), "address")

    def test_single_entries(self, person: Person) -> None:
        """Keys, properties with their values, and reasons of corrections."""
        report(person, nasty("key"), properties={nasty("property"): nasty("value")})
        correction = {
            "user_id": person.id, "feature": "storage", "quantity": "-1",
            "reason": nasty("reason"), "idempotency_key": "k2", "corrects": nasty("key"),
        }  # fmt: skip
        assert call("POST", "/usage/corrections", correction, token=KEY).status == 202
        shown = person.browser.get("/app/usage/entries")
        check(shown, "key", "property", "value", "reason", "storage", "unit")

    def test_days_and_properties(self, person: Person) -> None:
        report(person, "k", properties={nasty("property"): nasty("value")})
        see = person.browser.get
        check(see("/app/usage"), "storage", "unit")
        check(see("/app"), "storage", "unit")  # the picture and its table
        by = quote(nasty("property"))
        check(see(f"/app/usage?by={by}"), "property", "value", "storage")
        for path in ("/app/usage/entries", "/app/usage/next"):
            shown = see(f"{path}?feature=storage&by={by}")
            assert (path, shown.status) == (path, 200)
            clean(shown)

    def test_alerts(self, person: Person) -> None:
        typed = {"alert_of": "storage", "alert_value": "12", "alert_in": "amount"}
        assert person.browser.post("/app/alerts", typed).status == 303
        check(person.browser.get("/app"), "storage", "unit")
        wrong = {name: nasty(name) for name in typed}
        refused = person.browser.post("/app/alerts", wrong)
        assert str(escape(nasty("alert_value"))) in refused.html
        clean(refused)

    def test_a_form_that_is_sent_again(self, person: Person) -> None:
        """All that was typed comes back, in hidden fields and as text."""
        del person.browser.cookies["__Host-session"]
        values = {"name": nasty("name"), nasty("field"): nasty("value"), "amount": nasty("amount")}
        asked = person.browser.post(f"/app/{quote(nasty('path'))}", values)
        clean(asked)
        asked = person.browser.post("/app/account/name", values)
        clean(asked)
        filled = asked.form("/app/login").values
        known = {"email": person._email, "password": PASSWORD}
        again = person.browser.post("/app/login", filled | known)
        check(again, "name", "field", "value", "amount")
        assert again.form("/app/account/name").values == values

    def test_the_name_of_the_product_and_its_support(
        self, person: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PRODUCT_NAME", nasty("product"))
        monkeypatch.setenv("SUPPORT_EMAIL", nasty("support"))
        wiring.settings.cache_clear()
        for path in ("/", "/app/signup", "/app/login"):
            check(Visitor().get(path), "product", "support")
        check(person.browser.get("/app"), "product", "support")


def differs(user: str, feature: str) -> None:
    """A total of the running period that differs from Commet's."""
    run(
        "insert into usage_drift (period, feature, user_id, ours, theirs, found_at, checked_at)"
        " select id, %s, user_id, 10.5, 13, now(), now() from usage_period"
        " where user_id = %s and closed_at is null",
        feature,
        user,
    )


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Visitor:
    """The browser of somebody who may see the operators' page."""
    email = address()
    monkeypatch.setenv("OPERATORS", email)
    wiring.settings.cache_clear()
    return joined(email)[1]


class TestOperators:
    def test_names_of_service_keys(
        self, operator: Visitor, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [service_key(nasty("key"), KEY, "read", nasty("scope"))]
        secrets = Secrets(Store(database_url, keys))
        monkeypatch.setattr(wiring, "secrets", lambda: secrets)
        wiring.service_keys.cache_clear()
        check(operator.get("/ops"), "key", "scope")

    def test_everything_that_waits(self, operator: Visitor, person: Person) -> None:
        """Deliveries, webhooks, totals, endpoints: all that products and Commet can name."""
        parked(
            nasty("user"), 1, feature=nasty("feature"), event_id=nasty("id"), reason=nasty("why")
        )
        run(
            "insert into webhooks (id, type, user_id, status, error)"
            " values (%s, %s, %s, 'dead', %s)",
            *map(nasty, ("webhook", "type", "whose", "error")),
        )
        differs(person.id, nasty("drift"))
        for n, url in enumerate(("https://<i>host", f"https://h/{nasty('path')}")):
            endpoint(url, description=nasty(f"about {n}"), disabled_by="gone", disabled_at=OFF_AT)
        shown = operator.get("/ops")
        check(
            shown, "user", "feature", "why", "webhook", "type", "whose", "error", "drift",
            "about 0", "about 1",
        )  # fmt: skip
        assert "&lt;i&gt;host" in shown.html
        assert "<i>" not in shown.html

    def test_everything_about_one_user(self, operator: Visitor, person: Person) -> None:
        """Notes and reasons of operators, and all that Commet can name."""
        user = person.id
        run("update users set email = %s where id = %s", nasty("address"), user)
        run("update subscriptions set status = %s, billing_interval = %s", nasty("s"), nasty("i"))
        run("update entitlements set type = %s", nasty("type"))
        parked(user, 1, reason=nasty("parked"), event_id=nasty("delivery"))
        differs(user, nasty("drift"))
        run("update usage_drift set repair = 'refused', reason = %s", nasty("refused"))
        run(
            "insert into payment_trouble"
            " (user_id, kind, about, reason, recovery_url, outcome, opened_at, changed_at)"
            " values (%s, 'failed_payment', %s, %s, %s, %s, now(), now())",
            user,
            *map(nasty, ("payment", "decline", "address of recovery", "outcome")),
        )
        run(
            "insert into debt (user_id, kind, source, opened_at, ended_at, ended_by, author, note)"
            " values (%s, 'lost_usage', %s, now(), now(), 'forgiven', %s, %s)",
            user,
            *map(nasty, ("source", "author", "note")),
        )
        run(
            "insert into contact_change (user_id, refused) values (%s, %s)"
            " on conflict (user_id) do update set refused = excluded.refused",
            user,
            nasty("contact"),
        )
        run("update checkout_attempt set plan_code = %s", nasty("plan"))
        run(
            "insert into webhooks (id, type, customer, status, error)"
            " values (%s, %s, %s, 'dead', %s)",
            *(nasty("webhook"), nasty("type of it"), user, nasty("error")),
        )
        told = json.dumps({nasty("member"): nasty("told")})
        run("select emit_event(%s, 'access.granted', now(), %s)", user, told)
        by = Actor("operator", nasty("operator"), "req-1", note=nasty("reason"))
        trail.write(
            wiring.database(), by, Action.COMMAND, user_id=user, outcome=nasty("end"),
            command=nasty("command"),
        )  # fmt: skip
        check(
            looked(operator, user), "address", "s", "i", "type", "parked", "delivery", "drift",
            "refused", "payment", "decline", "address of recovery", "outcome", "source", "author",
            "note", "contact", "plan", "webhook", "type of it", "error", "member", "told",
            "operator", "end", "reason", "command",
        )  # fmt: skip
