"""`make pages-judge`: every page in every state, read closely (`reading.py`)."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
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
<main><h1>Bad</h1><a href="/b" tabindex="3">Last</a><div style="width: 500px">wide</div></main>"""


def test_the_reader_notices_what_is_bad(page: Page) -> None:
    """Else a page without defects would say nothing."""
    reader = Reader()
    page.set_content(BAD)
    reader.read(page, "bad")
    kinds = {defect.partition(":")[0] for defect in reader.defects["bad"]}
    noticed = {"tabindex at 320 px, dark", "overflow, 390 px", "no ring", "moves", "is printed"}
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


def test_strangers_pages(tour: Tour, join: Join) -> None:
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


def mail_about(stack: LocalStack, address: str, path: str) -> str:
    """The text of the newest mail to the address, which must lead to the path."""
    text = str(mail_to(stack, address)["text"])
    for _ in range(100):
        if path in text:
            return text
        text = str(mail_to(stack, address)["text"])
    raise AssertionError(f"No mail leads to {path}.")


def test_members_without_a_plan(tour: Tour, join: Join, context: BrowserContext) -> None:
    """Before the first checkout; with an address that is not confirmed, and one that is."""
    page = tour.page
    page.goto(f"{tour.stack.api}/app/signup?plan=usage_pro")
    page.get_by_label("E-mail").fill("unconfirmed@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    tour.press("Create account")
    tour.see("address to be confirmed", says="unconfirmed@example.com")
    tour.press("Send another mail")
    tour.see("another mail")
    tour.go("/app/account", "account, address not confirmed", says="not confirmed")
    page.goto(f"{tour.stack.api}/app/checkout?plan=usage_pro")
    tour.press("Go on to payment")
    tour.see("checkout, address not confirmed", says="Confirm your address")

    join(name=LONG_NAME).enter(context)
    tour.go("/app", "overview without a plan")
    tour.go("/app/usage", "usage without a plan")
    tour.go("/app/billing", "billing without a plan", says="no plan")
    tour.go("/app/account", "account with a long name")
    tour.go("/app/checkout?plan=usage_pro", "checkout")
    tour.go("/app/checkout?plan=usage_max", "checkout with a trial", says="14 days")
    tour.go("/app/checkout?plan=free", "checkout of a free plan")
    tour.go("/app/checkout?plan=long_words", "checkout with long words")
    tour.go("/app/checkout?plan=nothing", "plan that is not sold", status=404)
    tour.go("/app/thanks?plan=usage_pro", "thank you", says="wait")
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
    tour.go("/app/usage/entries", "single entries")
    page.goto(f"{tour.stack.api}/app")
    page.get_by_label("For usage beyond your plan").fill("much")
    tour.press("Save")
    tour.see("spend limit, no number")
    page.get_by_label("For usage beyond your plan").fill("100")
    tour.press("Save")
    tour.see("overview, limit reached", says="limit")
    tour.go("/app/billing/cancel", "cancel")
    tour.go("/app/checkout?plan=usage_max", "checkout of another plan")
    tour.press("See what changes")
    tour.see("change of plan", says="Usage Max")
    tour.go("/app/billing", "billing, used")
    tour.main.get_by_role("table").get_by_role("link").first.click()
    tour.see("invoice")
    tour.go("/", "prices for a subscriber")
    assert page.title() != "run"
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
    tour.go("/app/account/delete", "delete the account")
    page.get_by_label("Type your address").fill("somebody@example.com")
    tour.press("Delete my account")
    tour.see("delete the account, other address")
    context.clear_cookies()
    tour.go("/app/account", "sign in first")
    tour.ended()


def test_subscriptions_in_trouble(
    tour: Tour, join: Join, context: BrowserContext, commet: Control
) -> None:
    """Trial, cancelled, paused, payment failed, ended, and Commet away."""
    bea = join("usage_max")
    bea.enter(context)
    tour.go("/app", "overview, trial", says="trial")
    tour.go("/app/billing", "billing, trial", says="trial")
    bea.at_commet("POST", "/cancel", immediate=False)
    tour.go("/app", "overview, trial canceled")

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

    fay = join("usage_pro")
    commet.set_card(fay.id, charge_failure="card_declined")
    fay.pass_days(32)
    fay.enter(context)
    tour.go("/app", "overview, past due", says="failed")
    tour.go("/app/billing", "billing, past due", says="failed")
    tour.go("/app/billing/cancel", "cancel, past due")

    dan.enter(context)
    tour.go("/app", "overview, ended", says="no plan")
    tour.go("/app/billing", "billing, ended")

    gil = join("usage_pro")
    gil.enter(context)
    commet.fault(action=COMMET_DOWN, times=None)
    tour.go("/app/billing", "billing while Commet is away")
    tour.go("/app/billing/invoices/inv_1", "503", status=503)
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
    commet.advance(seconds=1200)
    tour.go("/ops", "operators' page, after a while", status=401)
    tour.ended()


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
    tour.go("/app", "overview, open dispute")
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
