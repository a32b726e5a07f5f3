"""Pages in another language, made as docs/pages.md says: no English is left on any page.

The other language is English in the letters of another alphabet. The names of plans, features and
people are in other letters, too, so each word in the usual letters is one that nobody translated.
"""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from billing import wiring
from billing.operations import inspection, waiting
from billing.pages import formats, operators, site, usage
from billing.pages.rendering import Frame
from standin.catalogue import DEFAULT_FILE
from standin.testing import Receiver, StandIn, standin
from tests.integration.functions.calling import call, mailed
from tests.integration.functions.test_api import PASSWORD, address, environment  # noqa: F401
from tests.integration.functions.test_debts import KEY, _shop, box  # noqa: F401 - fixtures
from tests.integration.functions.test_ops_page import (
    OFF_AT,
    endpoint,
    joined,
    looked,
    parked,
    run,
)
from tests.integration.functions.test_page_markup import differs
from tests.integration.functions.test_pages import Person
from tests.integration.functions.visiting import Shown, Visitor
from tests.unit.cloudformation import ROOT

pytestmark = pytest.mark.handlers

# Alike in every language: the time zone, the currency, names of browsers and systems, and what
# numbers of invoices begin with.
NAMES = {"UTC", "USD", "Firefox", "Linux", "INV"}

_PARTS = re.compile(r"(\{[^}]*\}|<[^>]*>|&\w+;)")
_WORD = re.compile(r"[A-Za-z]{2,}")
_ADDRESS = re.compile(r"\S+@\S+")
_SPOKEN = ("aria-label", "alt", "title", "placeholder", "data-later")


def foreign(text: str) -> str:
    """The text in letters of another alphabet. Places for values and tags stay."""
    return "".join(
        part if number % 2 else re.sub("[A-Za-z]", lambda found: chr(ord(found[0]) + 0xFEE0), part)
        for number, part in enumerate(_PARTS.split(text))
    )


class _Told(HTMLParser):
    """What people read or hear on a page. Codes, ids and commands are the same in all languages."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.texts += [given[name] for name in _SPOKEN if name in given]
        if given.get("name") == "description":
            self.texts.append(given["content"])
        self._silent += tag in ("script", "style", "code")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style", "code")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.texts.append(data)


def english(html: str, names: set[str] = NAMES) -> list[str]:
    """The words of a page in the usual letters, without `names` and addresses."""
    told = _Told()
    told.feed(html)
    assert told.texts
    words = (word for text in told.texts for word in _WORD.findall(_ADDRESS.sub("", text)))
    return sorted(set(words) - names)


@pytest.fixture
def rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Pages in `de`, a copy of `en` whose texts are translated; the templates that were shown."""
    folder = tmp_path / "pages"
    shutil.copytree(ROOT / "functions" / "pages", folder)
    shutil.copytree(folder / "words" / "en", folder / "words" / "de")
    files = sorted((folder / "words" / "de").glob("*.toml"))
    assert files
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        translated = [re.sub(r'"(.*)"$', lambda m: f'"{foreign(m[1])}"', line) for line in lines]
        file.write_text("\n".join(translated), encoding="utf-8")
    for name in ("MONTHS", "SHORT_MONTHS", "THOUSANDS"):
        monkeypatch.setattr(formats, name, tuple(map(foreign, getattr(formats, name))))
    intervals = {code: foreign(text) for code, text in formats.INTERVALS.items()}
    monkeypatch.setattr(formats, "INTERVALS", intervals)
    monkeypatch.setattr(formats, "AND", foreign(formats.AND))
    monkeypatch.setenv("PAGES_LANGUAGE", "de")
    monkeypatch.setenv("PRODUCT_NAME", foreign("Northbeam"))
    monkeypatch.setenv("API_REFERENCE", "true")
    wiring.settings.cache_clear()
    frame = Frame(folder)
    shown: set[str] = set()
    render = frame.render

    def note(template: str, **values: Any) -> str:
        shown.add(template)
        return render(template, **values)

    monkeypatch.setattr(frame, "render", note)
    monkeypatch.setattr(site._Folder, "frame", frame)
    return shown


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[StandIn]:
    """Sells plans with names in other letters."""
    content = json.loads(DEFAULT_FILE.read_text(encoding="utf-8"))
    for feature in content["features"]:
        feature["name"] = foreign(feature["name"])
        feature["unitName"] = feature["unitName"] and foreign(feature["unitName"])
    for plan in content["plans"]:
        plan["name"], plan["description"] = foreign(plan["name"]), foreign(plan["description"])
    content["plans"][2]["prices"][0]["trialDays"] = 14
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with standin(catalogue=file) as running:
        yield running


@pytest.fixture
def person(remote: StandIn, box: Receiver) -> Person:  # noqa: F811
    return Person(remote, box)


class Reader:
    """Looks at pages. `left` has the words that nobody translated, by the page."""

    def __init__(self) -> None:
        self.left: dict[str, list[str]] = {}
        self.pages = 0

    def look(self, shown: Shown, name: str, names: set[str] = NAMES) -> Shown:
        """Returns the page, which must be in the other language."""
        assert '<html lang="de"' in shown.html, (name, shown.status, shown.location)
        self.pages += 1
        if found := english(shown.html, names):
            self.left[name] = found
        return shown

    def see(self, browser: Visitor, path: str) -> Shown:
        return self.look(browser.get(path), path)

    def send(self, browser: Visitor, path: str, **values: str) -> Shown:
        """Sends a form; the page that shows what is wrong with it, or what it leads to."""
        answer = browser.post(path, values)
        shown = browser.follow(answer) if answer.status == 303 else answer
        return self.look(shown, f"{path} {values}")


def test_a_word_in_english_is_noticed() -> None:
    """In a text, and in what is only heard."""
    said = foreign("Hello")
    html = f'<p>{said} <b>there</b></p><code>id</code><a aria-label="Help">?</a> a@example.com'
    assert english(html) == ["Help", "there"]
    translated = foreign("Pay <b>{price}</b>&nbsp;x")
    assert translated == "\uff30\uff41\uff59 <b>{price}</b>&nbsp;\uff58"


def test_no_page_has_english_words(
    rendered: set[str],
    person: Person,
    remote: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every template, in the states that have words of their own."""
    reader = Reader()
    _strangers(reader, person)
    _overview(reader, person, remote)
    _billing(reader, person, remote)
    _account(reader, person)
    _notices(reader, person)
    _operators(reader, person, monkeypatch)
    pieces = {"base.html", "parts.html", "plan_parts.html", "ops_parts.html"}
    assert (
        rendered == {file.name for file in (ROOT / "functions/pages/templates").iterdir()} - pieces
    )
    assert reader.pages > 60
    assert not reader.left, json.dumps(reader.left, indent=1, ensure_ascii=False)


def _strangers(reader: Reader, person: Person) -> None:
    stranger = Visitor()
    for path in (
        "/", "/?interval=yearly", "/?q_storage=150", "/?q_storage=many", "/app/nothing",
        "/app/signup", "/app/signup?plan=usage_pro", "/app/signup?plan=free", "/app/login",
        "/app/forgot", "/app/login?done=password_set", "/?done=signed_out", "/?done=deleted",
        "/verify-email?token=t", "/reset-password?token=t", "/sign-in?token=t",
    ):  # fmt: skip
        reader.see(stranger, path)
    reader.send(stranger, "/app/signup")
    reader.send(stranger, "/app/signup", email=address(), password="password")
    reader.send(stranger, "/app/signup", email=person._email, password=PASSWORD)
    reader.send(stranger, "/app/login", email=person._email, password="wrong password")
    reader.send(stranger, "/app/forgot")
    reader.send(stranger, "/app/forgot", email=person._email)
    token = mailed(person.id, "reset_password")
    reader.send(stranger, "/app/reset", token=token, password="short")
    for path in ("/app/reset", "/app/verify", "/app/login/link"):
        reader.send(stranger, path, token="act_0.0", password=PASSWORD)
    email = address()
    assert stranger.post("/app/signup", {"email": email, "password": PASSWORD}).status == 303
    reader.see(stranger, "/app/confirm")
    reader.see(stranger, "/app/account")
    reader.see(stranger, "/app")
    reader.send(stranger, "/app/checkout", plan_code="usage_pro")
    stranger.origin = "https://evil.example"
    reader.send(stranger, "/app/login")


def _overview(reader: Reader, person: Person, remote: StandIn) -> None:
    see = person.browser
    reader.see(see, "/app?done=welcome")
    reader.see(see, "/app/usage")
    reader.see(see, "/app/usage/entries")
    for day in range(9):
        _report(person, "8.5", f"day-{day}")
        remote.control.advance(days=1)
    person.sign_in()
    see.cookies["__Host-session"] = person._token
    for path in ("/app", "/app/billing"):  # will run past what is included
        reader.see(see, path)
    _report(person, "131.5", "beyond")
    correct = {"feature": "storage", "corrects": "beyond", "reason": foreign("a reason")}
    correct |= {"user_id": person.id, "quantity": "-1", "idempotency_key": "c"}
    assert call("POST", "/usage/corrections", correct, token=KEY).status == 202
    run("update usage_event set late = true where idempotency_key = 'beyond'")
    run("update usage_daily set late = 1")
    run("update usage_total set carried = 1")
    reader.see(see, "/app")
    reader.see(see, "/app/usage")
    region = foreign("region")
    reader.see(see, f"/app/usage?by={region}&from=2020-01-01")
    reader.see(see, "/app/usage?from=yesterday&to=2000-01-01&by=%00")
    reader.see(see, "/app/usage/next")
    reader.see(see, "/app/usage/entries")
    shown = usage.MOST_ROWS
    usage.MOST_ROWS = 1
    reader.see(see, "/app/usage")
    usage.MOST_ROWS = shown
    for amount in ("much", "1.234", "9999999999999999999"):
        reader.send(see, "/app/limit", amount=amount)
    for value in ("", "0", "half", "2000"):
        reader.send(see, "/app/alerts", alert_of="storage", alert_value=value, alert_in="percent")
    reader.send(see, "/app/alerts", alert_of="storage", alert_value="many", alert_in="amount")
    run("update users set spend_limit = 2 where id = %s", person.id)
    reader.see(see, "/app")  # the product's limit is reached
    reader.send(see, "/app/limit", amount="500")  # above it
    run("update users set spend_limit = null where id = %s", person.id)
    assert see.post("/app/limit", {"amount": "1"}).status == 303
    reader.see(see, "/app?done=limit_saved")
    alert = {"alert_of": "-spend", "alert_value": "9", "alert_in": "amount"}
    assert see.post("/app/alerts", alert).status == 303
    reader.see(see, "/app?done=alert_saved")
    assert see.post("/app/limit", {"amount": ""}).status == 303


def _billing(reader: Reader, person: Person, remote: StandIn) -> None:
    see = person.browser
    billing = reader.see(see, "/app/billing")
    (invoice,) = (each for each in billing.links if "/invoices/" in each)
    reader.look(see.get(invoice), "an invoice", NAMES | {"monthly"})  # Commet writes the lines
    reader.see(see, "/app/billing/invoices/inv_none")
    reader.see(see, "/")
    reader.see(see, "/app/checkout?plan=usage_pro")
    reader.see(see, "/app/checkout?plan=nothing")
    reader.send(see, "/app/checkout", plan_code="usage_pro")
    reader.send(see, "/app/checkout", plan_code="usage_max", confirmation="old")
    for plan in ("usage_max", "free", "fixed_box"):
        reader.see(see, f"/app/checkout?plan={plan}")
        reader.send(see, "/app/checkout", plan_code=plan)
    reader.see(see, "/app/thanks?plan=usage_max")
    reader.see(see, "/app/billing/cancel")
    assert see.post("/app/billing/cancel").status == 303
    reader.see(see, "/app/billing?done=canceled")
    reader.see(see, "/app")
    reader.send(see, "/app/billing/recovery")
    remote.control.fault(action={"status": 503}, times=None)
    reader.see(see, "/app/billing")
    reader.see(see, invoice)
    reader.send(see, "/app/billing/portal")
    reader.send(see, "/app/billing/keep")
    remote.control.clear_faults()
    assert see.post("/app/billing/keep").status == 303


def _account(reader: Reader, person: Person) -> None:
    see = person.browser
    person.sign_in()
    reader.see(see, "/app/account?done=saved")
    reader.send(see, "/app/account/name", name="1" * 1000)
    reader.send(see, "/app/account/email")
    reader.send(see, "/app/account/email", email=address(), current_password="wrong")
    reader.send(see, "/app/account/password", current_password="wrong", password="short")
    reader.send(see, "/app/account/password", current_password=PASSWORD, password="password")
    reader.send(see, "/app/account/sessions", session_id="ses_none")
    assert see.post("/app/account/mails", {"thresholds": "off"}).status == 303
    changed = see.post("/app/account/email", {"email": address(), "current_password": PASSWORD})
    reader.look(see.follow(changed), "the new address awaited")
    reader.see(see, "/app/account/export/next")
    reader.see(see, "/app/account/delete")
    reader.send(see, "/app/account/delete", email=person._email, current_password="wrong")
    reader.send(see, "/app/account/delete", email=address(), current_password=PASSWORD)
    cookie = see.cookies.pop("__Host-session")
    asked = reader.send(see, "/app/account/name", name=foreign("Ana"))
    filled = asked.form("/app/login").values | {"email": person._email, "password": PASSWORD}
    reader.look(see.post("/app/login", filled), "the form is sent again")
    see.cookies["__Host-session"] = cookie


def _notices(reader: Reader, person: Person) -> None:
    """What a subscription can be, in the order of the banners."""
    see = person.browser
    for statement in (
        "update entitlements set overage_enabled = false, unit_price = null",
        "update entitlements set unlimited = true, included = null where type = 'usage'",
        "update subscriptions set status = 'trialing', trial_ends_at = period_end",
        "update subscriptions set plan_id = 'pln_gone'",
        "update subscriptions set status = 'paused'",
        "update subscriptions set status = 'pending_payment'",
        "update subscriptions set status = 'past_due'",
        "update subscriptions set status = 'canceled', plan_id = 'pln_usagepro'",
    ):
        run(statement)
        for path in ("/app", "/app/billing", "/"):
            reader.look(see.get(path), f"{path} after {statement}")
    trouble = (
        "insert into payment_trouble"
        " (user_id, kind, about, amount, currency, opened_at, changed_at)"
        " values (%s, %s, %s, %s, 'usd', now(), now())"
    )
    run("update subscriptions set status = 'past_due'")
    for number, (kind, amount) in enumerate(
        (("dispute", 5), ("unpaid_invoice", None), ("unpaid_invoice", 5), ("failed_payment", None),
         ("failed_payment", 5))
    ):  # fmt: skip
        run("delete from payment_trouble")
        run(trouble, person.id, kind, f"about-{number}", amount)
        reader.look(see.get("/app"), f"{kind} of {amount}")
        reader.look(see.get("/app/billing"), f"billing, {kind} of {amount}")
    reader.see(see, "/app/billing/cancel")


def _operators(reader: Reader, person: Person, patch: pytest.MonkeyPatch) -> None:
    """Reasons, types and states are codes; what `show` finds has the names of the API."""
    email = address()
    patch.setenv("OPERATORS", email)
    wiring.settings.cache_clear()
    _, operator = joined(email)
    scopes = {"usage", "write", "users", "manage", "correct", "read"}
    reader.look(operator.get("/ops"), "/ops", NAMES | scopes)
    code = foreign("a_code")
    for seq in (1, 2, 3):
        parked(person.id, seq, reason=code, feature=code)
    differs(person.id, code)
    run(
        "insert into webhooks (id, type, user_id, customer, status, error)"
        " values ('whev_1', %s, %s, %s, 'dead', %s)",
        code,
        person.id,
        person.id,
        code,
    )
    for by in ("gone", "failures", "request"):
        endpoint("https://1", description="", disabled_by=by, disabled_at=OFF_AT)
    endpoint("https://1", description="", failing_since=OFF_AT)
    run(
        "insert into usage_delivery"
        " (period, feature, seq, user_id, quantity, event_id, body, state, due_at)"
        " values (1, 'x', 9, 'u', 1, 'ev_9', '{}', 'pending', now() - interval '3 hours')"
    )
    patch.setattr(waiting, "MOST_COUNTED", 0)
    patch.setattr(operators, "_MOST_ROWS", 3)
    run(
        "insert into rounds (name, position, requested, begun_at)"
        " values ('sweep', '{}', '{}', now())"
        " on conflict (name) do update set position = '{}', requested = '{}', begun_at = now()"
    )
    reader.look(operator.get("/ops"), "/ops with rows", NAMES | scopes)
    found = inspection.of_user(wiring.database(), person.id, now=wiring.now())
    known = set(_WORD.findall(json.dumps(found, ensure_ascii=False)))
    known |= {word.capitalize() for word in known} | {"yes", "no"}
    reader.look(looked(operator, person.id), "/ops/user", NAMES | known)
    reader.send(operator, "/ops/user", who="")
    reader.send(operator, "/ops/user", who="nobody@example.com")
    run("update sessions set created_at = created_at - interval '20 minutes'")
    reader.see(operator, "/ops")


def _report(person: Person, quantity: str, key: str) -> None:
    body = {
        "user_id": person.id, "feature": "storage", "quantity": quantity, "idempotency_key": key,
        "properties": {foreign("region"): foreign("eu")},
    }  # fmt: skip
    assert call("POST", "/usage", body, token=KEY).status == 202
