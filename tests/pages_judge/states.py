"""`make pages-judge`: every page in every state, read closely (`reading.py`)."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from local.stack import LocalStack
from standin.testing import Control
from tests.pages_judge.album import Album
from tests.pages_judge.conftest import OPERATOR
from tests.pages_judge.people import Member
from tests.pages_judge.reading import Reader
from tests.visitor import PASSWORD, PATIENCE, mail_to

Join = Callable[..., Member]

LONG_NAME = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
SCRIPT = "<script>document.title='run'</script>"
COMMET_DOWN = {"status": 503}


@pytest.fixture
def reader() -> Reader | Album:
    """Reads the pages; where `PICTURES` names a folder, takes pictures of them instead."""
    folder = os.environ.get("PICTURES")
    return Album(Path(folder)) if folder else Reader()


BAD = """<!doctype html><html lang="en"><title>Bad</title>
<style>a { transition: color .2s } a:focus { outline: none }</style><nav><a href="/">Home</a></nav>
<main><h1>Bad</h1><a href="/b" tabindex="3">Last</a><div style="width: 500px">wide</div>
<details><summary>Days</summary><table><tr><td>1</table></details>
<div class="scroll" style="overflow: auto" tabindex="0"><p style="width: 900px">wide</p></div>
</main>"""


def test_the_reader_notices_what_is_bad(page: Page) -> None:
    """Else a page without defects would say nothing."""
    reader = Reader()
    page.set_content(BAD)
    reader.read(page, "bad")
    kinds = {defect.partition(":")[0] for defect in reader.defects["bad"]}
    noticed = {
        "tabindex at 320 px, dark", "overflow, 390 px", "no ring", "moves", "is printed",
        "is not printed", "is cut on paper",
    }  # fmt: skip
    assert noticed <= kinds


class Tour:
    """Goes to pages of the stack, and has each read under the name of its state."""

    def __init__(self, page: Page, stack: LocalStack, reader: Reader | Album) -> None:
        self.page, self.stack, self.reader = page, stack, reader
        self.main = page.get_by_role("main")

    def go(self, path: str, state: str, *, says: str = "", status: int = 200) -> None:
        """Reads a page, which must have the text."""
        answer = self.page.goto(f"{self.stack.api}{path}")
        assert answer is not None
        assert answer.status == status, f"{state}: {answer.status}"
        self.see(state, says)

    def see(self, state: str, says: str = "") -> None:
        """Reads the page that is open."""
        expect(self.main.get_by_role("heading", level=1)).to_have_count(1, timeout=PATIENCE)
        if says:
            expect(self.main).to_contain_text(says, timeout=PATIENCE)
        self.reader.read(self.page, state)

    def press(self, name: str) -> None:
        self.main.get_by_role("button", name=name).first.click()

    def ended(self) -> None:
        """What was read, on the terminal, and no defect."""
        sys.stderr.write(f"\n{dict(self.reader.done)}\n")
        defects = {state: wrong for state, wrong in self.reader.defects.items() if wrong}
        assert defects == {}, json.dumps(defects, indent=1, ensure_ascii=False)


@pytest.fixture
def tour(page: Page, stack: LocalStack, reader: Reader | Album) -> Tour:
    return Tour(page, stack, reader)


def test_strangers_pages(tour: Tour) -> None:
    """Prices, and the way in with all that can go wrong on it."""
    page = tour.page
    tour.go("/", "prices")
    tour.go("/?interval=yearly", "prices of a year", says="a year")
    tour.go("/?q_api_calls=1,200,000&q_storage=140", "estimate", says="cheapest")
    tour.go("/?q_api_calls=many", "estimate of no number")
    tour.go("/app/nothing", "404", says="no page", status=404)
    tour.go("/app/signup?plan=usage_max", "sign-up", says="Usage Max")
    tour.press("Create account")
    tour.see("sign-up, all wrong")
    tour.go("/app/login?next=/app/usage", "sign-in")
    page.get_by_label("E-mail").fill("nobody@example.com")
    page.get_by_label("Password").fill("not a password")
    tour.press("Sign in")
    tour.see("sign-in, wrong", says="wrong")
    send_from_elsewhere(page, f"{tour.stack.api}/app/login")
    tour.see("403, a form on another site", says="came from another site")
    tour.ended()


def test_forgotten_passwords(tour: Tour, join: Join) -> None:
    """And addresses that are taken, and too many attempts."""
    page = tour.page
    tour.go("/app/forgot", "forgotten password")
    tour.press("Send the link")
    tour.see("forgotten password, no address")
    ana = join()
    page.get_by_label("E-mail").fill(ana.email)
    tour.press("Send the link")
    tour.see("forgotten password, sent", says="is on its way")
    link = next(
        word
        for word in mail_about(tour.stack, ana.email, "/reset-password").split()
        if "/reset-password" in word
    )
    tour.go(link.removeprefix(tour.stack.api), "new password")
    page.get_by_label("New password", exact=True).fill("short")
    tour.press("Set the password")
    tour.see("new password, too short")
    tour.go("/reset-password?token=act_0.0", "link that is nonsense")
    page.get_by_label("New password", exact=True).fill(PASSWORD)
    tour.press("Set the password")
    tour.see("link that has expired", says="Send a new one")
    tour.go("/verify-email?token=act_0.0", "confirming without a session")
    tour.go("/sign-in?token=act_0.0", "sign-in by link")
    tour.go("/app/signup", "sign-up without a plan")
    page.get_by_label("E-mail").fill(ana.email)
    page.get_by_label("Password").fill(PASSWORD)
    tour.press("Create account")
    tour.see("sign-up, address taken", says="There is an account")
    page.goto(link)
    page.get_by_label("New password", exact=True).fill(f"{PASSWORD} home")
    tour.press("Set the password")
    tour.see("sign-in, new password set", says="Sign in with your new password")
    for _ in range(12):
        page.goto(f"{tour.stack.api}/app/login")
        page.get_by_label("E-mail").fill(ana.email)
        page.get_by_label("Password").fill("not a password")
        with page.expect_navigation():
            tour.press("Sign in")
        if "many" in tour.main.inner_text():
            break
    tour.see("429, too many attempts", says="many")
    tour.ended()


def send_from_elsewhere(page: Page, target: str) -> None:
    """Sends a form of a page that is not ours."""
    page.goto("about:blank")
    page.set_content(f'<form method="post" action="{target}"><button>Send</button></form>')
    with page.expect_navigation():
        page.get_by_role("button").click()


def test_nothing_answers(
    tour: Tour, join: Join, context: BrowserContext, stack: LocalStack
) -> None:
    """The database is locked, as by a long change of its tables: each page is a 503."""
    join("usage_pro").enter(context)
    with psycopg.connect(stack.database_url) as locking:
        locking.execute("lock table sessions in access exclusive mode")
        tour.go("/app", "503, maintenance", says="Nothing was lost", status=503)
    tour.ended()


def mail_about(stack: LocalStack, address: str, path: str) -> str:
    """The text of the newest mail to the address, which must lead to the path."""
    text = str(mail_to(stack, address)["text"])
    for _ in range(100):
        if path in text:
            return text
        text = str(mail_to(stack, address)["text"])
    raise AssertionError(f"No mail leads to {path}.")


def test_members_without_a_plan(
    tour: Tour, join: Join, context: BrowserContext, commet: Control
) -> None:
    """Before the first checkout; with an address that is not confirmed, and one that is."""
    page = tour.page
    page.goto(f"{tour.stack.api}/app/signup?plan=usage_pro")
    page.get_by_label("E-mail").fill("unconfirmed@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    tour.press("Create account")
    tour.see("address to be confirmed", says="unconfirmed@example.com")
    tour.press("Send another mail")
    tour.see("another mail", says="on its way")
    tour.go("/app/account", "account, address not confirmed", says="not confirmed")
    page.goto(f"{tour.stack.api}/app/checkout?plan=usage_pro")
    tour.press("Go on to payment")
    tour.see("checkout, address not confirmed", says="Confirm your address")

    for _ in range(25):
        page.goto(f"{tour.stack.api}/app/confirm")
        with page.expect_navigation():
            tour.press("Send another mail")
        if "many" in tour.main.inner_text():
            break
    tour.see("another mail, too many", says="Too many")
    commet.advance(seconds=600)  # until mails are sent again
    context.clear_cookies()
    account = {"email": "confirming@example.com", "password": PASSWORD}
    httpx.post(f"{tour.stack.api}/signup", json=account, trust_env=False).raise_for_status()
    text = mail_about(tour.stack, account["email"], "/verify-email")
    link = next(word for word in text.split() if "/verify-email" in word)
    tour.go(link.removeprefix(tour.stack.api), "confirming, not signed in", says="your password")
    page.get_by_label("Password").fill("not a password")
    tour.press("Confirm the address")
    tour.see("confirming, password wrong")

    lee = join(name=LONG_NAME)
    lee.enter(context)
    tour.go("/app", "overview without a plan")
    tour.go("/app/usage", "usage without a plan")
    tour.go("/app/usage/entries", "single entries without a plan")
    tour.go("/app/billing", "billing without a plan", says="no plan")
    tour.press("Open the portal")
    tour.see("billing, no portal without a plan", says="You have no plan yet")
    tour.go("/app/account", "account with a long name")
    tour.go("/app/checkout?plan=usage_pro", "checkout")
    tour.go("/app/checkout?plan=usage_max", "checkout with a trial", says="14 days")
    tour.go("/app/checkout?plan=free", "checkout of a free plan")
    tour.go("/app/checkout?plan=long_words", "checkout with long words")
    tour.go("/app/checkout?plan=nothing", "plan that is not sold", status=404)
    tour.go("/app/thanks?plan=usage_pro", "thank you", says="wait")
    assert lee.http.post("/checkout", json={"plan_code": "usage_pro"}).status_code == 201
    tour.go("/app", "overview, payment awaited", says="waits for your payment")
    tour.go("/app/billing", "billing, payment awaited", says="waits for your payment")
    tour.ended()


def test_subscribers(tour: Tour, join: Join, context: BrowserContext) -> None:
    """From nothing used to the spend limit."""
    page = tour.page
    ana = join("usage_pro")
    ana.enter(context)
    tour.go("/app?done=welcome", "overview, nothing used", says="Nothing used yet")
    tour.go("/app/usage", "usage, nothing used", says="Nothing was used")
    tour.go("/app/billing", "billing, first invoice")
    for day in range(9):
        for feature, quantity in (("api_calls", "31234"), ("storage", "8.5"), ("emails", "900")):
            assert ana.use(quantity, feature=feature, key=f"{feature}-{day}", region=SCRIPT) == 202
        ana.pass_days(1)
    ana.enter(context)
    tour.go("/app", "overview, used", says="likely")
    page.get_by_text("Show the days as a table").click()
    tour.see("overview, used, with its table")
    assert ana.use("1200000", key="over") == 202
    assert ana.use("1900", feature="emails", key="up") == 202
    tour.go("/app?feature=api_calls", "overview, over", says="beyond")
    tour.go("/app?feature=emails", "overview, used up", says="used up")
    tour.go("/app/usage", "usage")
    tour.go("/app/usage?by=region", "usage by a property", says="region")
    tour.go("/app/usage?feature=api_calls&by=region", "usage of one feature by a property")
    tour.go("/app/usage?by=no%20property&from=yesterday", "usage, wrong fields", status=422)
    tour.go("/app/usage/next", "usage, no further part", says="no further part")
    correct = {"corrects": f"{ana.id}-up", "idempotency_key": "back", "reason": SCRIPT}
    correct |= {"user_id": ana.id, "feature": "emails", "quantity": "-1200"}
    assert ana.product("POST", "/usage/corrections", correct).is_success
    hold = {"user_id": ana.id, "feature": "emails", "quantity": "25", "idempotency_key": "hold"}
    assert ana.product("POST", "/usage/reservations", hold).is_success
    tour.go("/app?feature=emails", "overview, held", says="25 held")
    tour.go("/app/usage?feature=emails", "usage, corrected", says="Corrected")
    tour.go("/app/usage/entries", "single entries", says="correction")
    overview_forms(tour)
    page.goto(f"{tour.stack.api}/app")
    page.get_by_label("For usage beyond your plan").fill("much")
    tour.press("Save")
    tour.see("spend limit, no number")
    page.get_by_label("For usage beyond your plan").fill("100")
    tour.press("Save")
    tour.see("overview, limit reached", says="limit")
    tour.go("/app/billing", "billing, used")
    tour.go("/app/billing/cancel", "cancel")
    assert page.title() != "run"
    tour.ended()


def test_changes_of_plan(tour: Tour, join: Join, context: BrowserContext) -> None:
    """Up, down, and refused; then the invoices."""
    page = tour.page
    jon = join("usage_pro")
    jon.enter(context)
    assert jon.use("1200000", key="over") == 202
    tour.go("/app/checkout?plan=usage_max", "checkout of another plan")
    tour.press("See what changes")
    tour.see("change of plan", says="Usage Max")
    page.evaluate("document.querySelector('input[name=confirmation]').value = 'old'")
    tour.press("Change to Usage Max")
    tour.see("change of plan, prices changed meanwhile", says="another look")
    page.goto(f"{tour.stack.api}/app/checkout?plan=free")
    tour.press("See what changes")
    tour.see("change of plan, down", says="beyond the new plan")
    tour.press("Change to Free")
    tour.see("billing, change booked", says="Booked change")
    tour.main.get_by_role("table").get_by_role("link").first.click()
    tour.see("invoice")
    tour.go("/", "prices for a subscriber")
    tour.ended()


def test_long_lists(tour: Tour, join: Join, context: BrowserContext) -> None:
    """More than a page has."""
    mia = join("usage_pro")
    mia.enter(context)
    many = [{"feature": "emails", "quantity": "1", "idempotency_key": f"m{n}"} for n in range(101)]
    assert mia.report(many) == 202
    tour.go("/app/usage/entries", "single entries, the first of them", says="Next entries")
    fill_years(tour.stack, mia.id)
    tour.go("/app/usage?from=2020-01-01", "usage, cut", says="Only the first rows")
    tour.ended()


def fill_years(stack: LocalStack, user: str) -> None:
    """Usage on more days than a page of them has."""
    with psycopg.connect(stack.database_url) as database:
        done = database.execute(
            "insert into usage_daily (period, feature, day, quantity)"
            " select max(id), 'emails', date '2020-01-01' + day, 1"
            " from usage_period, generate_series(1, 1200) as day where user_id = %s group by day",
            [user],
        )
        assert done.rowcount == 1200


def overview_forms(tour: Tour) -> None:
    """The alerts, with what can be wrong in their form."""
    page = tour.page
    page.goto(f"{tour.stack.api}/app")
    page.get_by_label("At", exact=True).fill("half")
    tour.press("Add an alert")
    tour.see("alert, no number", says="whole number")
    for percent in range(1, 22):
        page.get_by_label("At", exact=True).fill(str(percent))
        with page.expect_navigation():
            tour.press("Add an alert")
    tour.see("alerts, too many", says="Remove one first")


def test_limits_of_the_product(tour: Tour, join: Join, context: BrowserContext) -> None:
    """A spend limit that the product has set."""
    kim = join("usage_pro")
    kim.enter(context)
    path = f"/users/{kim.id}/spend-limit"
    assert kim.product("PUT", path, {"amount": "1"}).is_success
    assert kim.use("1002500", key="up to it") == 202
    tour.go("/app", "overview, limit of the product reached", says="It is set for you")
    tour.page.get_by_label("For usage beyond your plan").fill("500")
    tour.press("Save")
    tour.see("spend limit, above that of the product")
    tour.ended()


def test_a_session_that_ended(tour: Tour, join: Join, context: BrowserContext) -> None:
    """In the middle of a form: asked to sign in, and then whether to send the form."""
    ida = join("usage_pro")
    ida.enter(context)
    page = tour.page
    page.goto(f"{tour.stack.api}/app")
    page.get_by_label("For usage beyond your plan").fill("250")
    context.clear_cookies()
    tour.press("Save")
    tour.see("form kept, sign in again", says="what you typed is kept")
    page.get_by_label("E-mail").fill(ida.email)
    page.get_by_label("Password").fill(PASSWORD)
    tour.press("Sign in")
    tour.see("form kept, send it again", says="250")
    tour.ended()


def test_the_account(tour: Tour, join: Join, context: BrowserContext) -> None:
    """Its cards, each with what can be wrong."""
    ana = join("free")
    ana.enter(context)
    page = tour.page
    tour.go("/app", "overview of a free plan")
    tour.go("/app/account", "account")
    page.locator("#password").get_by_role("button").click()
    tour.see("account, password wrong")
    page.locator("#email").get_by_role("button").click()
    tour.see("account, address wrong")
    page.locator("#name").get_by_label("Your name").fill("x" * 1000)
    page.locator("#name").get_by_role("button").click()
    tour.see("account, name wrong")
    page.locator("#email").get_by_label("New address").fill("other@example.com")
    page.locator("#email").get_by_label("Your password").fill(PASSWORD)
    page.locator("#email").get_by_role("button").click()
    tour.see("account, new address awaited", says="Waiting to be confirmed")
    page.locator("#mails").get_by_role("button").click()
    tour.see("account, mails off", says="You get no mail")
    for _ in range(3):
        ana.cookie()
    tour.go("/app/account", "account, several sessions", says="Sign out all others")
    end = page.locator("#sessions li").get_by_role("button").first
    end.evaluate("e => { e.value = 'ses_of_nobody' }")
    end.click()
    tour.see("account, session ended already")
    tour.go("/app/account/export/next", "export, no further part", says="no further part")
    tour.go("/app/account/delete", "delete the account")
    page.get_by_label("Type your address").fill("somebody@example.com")
    tour.press("Delete my account")
    tour.see("delete the account, other address")
    page.get_by_label("Type your address").fill(ana.email)
    page.get_by_label("Your password").fill("not a password")
    tour.press("Delete my account")
    tour.see("delete the account, password wrong")
    context.clear_cookies()
    tour.go("/app/account", "sign in first")
    tour.ended()


def test_subscriptions_in_trouble(
    tour: Tour, join: Join, context: BrowserContext, commet: Control
) -> None:
    """Trial, cancelled, paused, payment failed, ended."""
    bea = join("usage_max")
    bea.enter(context)
    tour.go("/app", "overview, trial", says="trial")
    tour.go("/app/billing", "billing, trial", says="trial")
    bea.pass_days(13)
    bea.enter(context)
    tour.go("/app", "overview, trial ends tomorrow", says="1 day left")
    tour.go("/app/billing", "billing, trial ends tomorrow", says="1 day left")
    bea.at_commet("POST", "/cancel", immediate=False)
    tour.go("/app", "overview, trial canceled")
    tour.go("/app/billing", "billing, trial canceled")

    cem = join("long_words")
    cem.enter(context)
    assert cem.use("123456780.123456", feature="document_conversion", key="one") == 202
    tour.go("/app", "overview, long words", says="Rindfleisch")
    tour.go("/app/billing", "billing, long words")

    dan = join("usage_pro")
    dan.enter(context)
    tour.go("/app/billing", "billing")
    dan.at_commet("POST", "/cancel", immediate=False)
    tour.go("/app", "overview, canceled", says="ends on")
    tour.go("/app/billing", "billing, canceled", says="Ends")

    eva = join("usage_pro")
    eva.at_commet("POST", "/pause", mode="immediate", durationDays=None)
    eva.enter(context)
    tour.go("/app", "overview, paused", says="aused")
    tour.go("/app/billing", "billing, paused")
    tour.page.goto(f"{tour.stack.api}/app/checkout?plan=usage_max")
    tour.press("See what changes")
    tour.see("change of plan refused, paused", says="cannot change as it is now")

    fay = join("usage_pro")
    commet.set_card(fay.id, charge_failure="card_declined")
    fay.pass_days(32)
    fay.enter(context)
    tour.go("/app", "overview, past due", says="failed")
    tour.go("/app/billing", "billing, past due", says="failed")
    tour.go("/app/billing/cancel", "cancel, past due")
    tour.go("/app/account", "account, past due", says="failed")
    with psycopg.connect(tour.stack.database_url) as database:
        database.execute("delete from payment_trouble where kind = 'failed_payment'")
    tour.go("/app/billing", "billing, invoice not paid", says="is not paid")

    dan.enter(context)
    tour.go("/app", "overview, ended", says="no plan")
    tour.go("/app/billing", "billing, ended")
    tour.ended()


def test_commet_is_away(tour: Tour, join: Join, context: BrowserContext, commet: Control) -> None:
    """Each page has what can be said without Commet."""
    gil = join("usage_pro")
    gil.enter(context)
    commet.fault(action=COMMET_DOWN, times=None)
    tour.go("/app/billing", "billing while Commet is away")
    tour.go("/app/billing/invoices/inv_1", "503", status=503)
    tour.page.goto(f"{tour.stack.api}/app/billing")
    tour.press("Open the portal")
    tour.see("billing, the portal does not answer", says="Billing does not answer")
    tour.page.goto(f"{tour.stack.api}/app/checkout?plan=usage_max")
    tour.press("See what changes")
    tour.see("change of plan, Commet does not answer", says="does not answer")
    commet.clear_faults()
    assert gil.http.get("/portal").status_code == 303
    commet.fault(action=COMMET_DOWN, times=None)
    with psycopg.connect(tour.stack.database_url) as database:
        database.execute(
            "update users set answered_at = answered_at - interval '1 minute', asked_at = null"
            " where id = %s",
            [gil.id],
        )
    tour.go("/app", "overview, billing not reached", says="could not reach billing")
    tour.go("/app/billing", "billing, billing not reached", says="could not reach billing")
    tour.ended()


def test_the_operators_page(
    tour: Tour, join: Join, context: BrowserContext, commet: Control
) -> None:
    """What waits, one user, a user who does not exist; nothing for others, and nothing stale."""
    ana = join("usage_pro", name=LONG_NAME)
    assert ana.use("1200000", key="one") == 202
    ana.enter(context)
    tour.go("/ops", "operators' page, a customer", says="no page", status=404)
    join(email=OPERATOR).enter(context)
    tour.go("/ops", "operators' page")
    find(tour, ana.id)
    tour.see("operators' page, one user", says=ana.id)
    find(tour, "nobody@example.com")
    tour.see("operators' page, unknown user")
    with psycopg.connect(tour.stack.database_url) as database:
        write_rows(database, ana.id)
    tour.go("/ops", "operators' page, rows everywhere", says=SCRIPT)
    for said in ("Off: it answered 410", "Failing: events are sent again", "KeyError", "12.5"):
        expect(tour.main).to_contain_text(said)
    find(tour, ana.id)
    tour.see("operators' page, one user with rows everywhere", says="Forgive all open debts")
    commet.advance(seconds=1200)
    tour.go("/ops", "operators' page, after a while", status=401)
    tour.page.get_by_label("Password", exact=True).fill("not a password")
    tour.press("Go on")
    tour.see("operators' page, password wrong", says="wrong")
    tour.ended()


def write_rows(database: psycopg.Connection[Any], user: str) -> None:
    """Something of all that the operators' page can show, with what does not fit and markup."""
    values = {"user": user, "script": SCRIPT, "long": LONG_NAME, "at": "2026-11-20 12:34+00"}
    for statement in ROWS:
        database.execute(statement, values)


# Each in a table of the page.
ROWS = (
    "insert into usage_delivery"
    " (period, feature, seq, user_id, quantity, event_id, body, state, reason, claimed_at)"
    " values (1, 'storage', 9001, %(user)s, 1234.5, 'ev_9001', '{}', 'parked', %(script)s, %(at)s),"
    " (1, 'storage', 9002, %(user)s, 98765432.123456, 'ev_9002', '{}', 'parked', %(long)s, %(at)s)",
    "insert into webhooks (id, type, user_id, customer, status, error) values"
    " ('whev_9001', 'subscription.updated', %(user)s, %(user)s, 'dead', 'KeyError'),"
    " ('whev_9002', %(script)s, %(user)s, %(user)s, 'dead', %(long)s)",
    "insert into usage_drift (period, feature, user_id, ours, theirs, found_at, checked_at)"
    " select max(id), 'storage', %(user)s, 10.5, 12.5, %(at)s, %(at)s from usage_period"
    " where user_id = %(user)s",
    "insert into event_endpoint"
    " (id, slot, url, description, failing_since, disabled_at, disabled_by) values"
    " ('ep_000000000000000000000001', 8, 'https://a.example/hooks', %(script)s, %(at)s, %(at)s,"
    " 'gone'),"
    " ('ep_000000000000000000000002', 9, 'https://b.example/hooks', %(long)s, %(at)s, %(at)s,"
    " 'failures'),"
    " ('ep_000000000000000000000003', 10, 'https://127.0.0.1:9/hooks', '', %(at)s, null, null)",
    "insert into debt (user_id, kind, source, amount, currency, opened_at)"
    " values (%(user)s, 'voided_invoice', 'inv_9001', 12.5, 'usd', %(at)s)",
)


def find(tour: Tour, who: str) -> None:
    """Searches for a user on the operators' page."""
    tour.main.locator("form[action='/ops/user'] input[name=who]").fill(who)
    tour.main.locator("form[action='/ops/user'] button").click()


def test_debts(tour: Tour, join: Join, context: BrowserContext, commet: Control) -> None:
    """A dispute that the product lost is owed: overview, billing and checkout say so."""
    ned = join("usage_pro")
    customer = commet.customer(ned.id)["customer"]["id"]
    paid = next(t for t in commet.state()["transactions"] if t["customer_id"] == customer)
    commet.dispute(paid["id"])
    commet.settle()
    ned.enter(context)
    tour.go("/app", "overview, open dispute", says="disputed")
    tour.go("/app/billing", "billing, open dispute", says="disputed")
    tour.go("/app/checkout?plan=usage_max", "checkout, open dispute", says="disputed")
    commet.resolve_dispute(paid["id"], outcome="lost")
    commet.settle()
    tour.stack.invoke("ReconcileFunction")  # reads at Commet how much is owed
    tour.go("/app", "overview, debt", says="You owe")
    tour.go("/app/billing", "billing, debt", says="You owe")
    ned.at_commet("POST", "/cancel", immediate=True)
    tour.go("/app/checkout?plan=usage_pro", "checkout with a debt")
    tour.press("Go on to payment")
    tour.see("checkout refused because of a debt", says="You owe")
    tour.ended()


def test_robots_are_answered(stack: LocalStack) -> None:
    """The prices may be indexed, and nothing else needs to be."""
    answer = httpx.get(f"{stack.api}/robots.txt", trust_env=False)
    assert answer.status_code == 200
    assert "user-agent" in answer.text.lower()
