"""`make pages-judge`: what people do with browsers: no script, Back, two clicks, two tabs."""

import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from local.stack import LocalStack
from standin.testing import Control
from tests.axe import violations
from tests.hands import Hands, Keyboard, Mouse
from tests.pages_judge.people import Member
from tests.pages_judge.reading import overflow
from tests.visitor import PASSWORD, PATIENCE, Visitor, errors_of

Join = Callable[..., Member]
LIMIT = "For usage beyond your plan"


# The width of the window in px, the colours, and whether scripts run.
SCREENS = [
    f"{width}-{scheme}-{script}"
    for width in (1280, 390)
    for scheme in ("light", "dark")
    for script in ("script", "no-script")
]


@pytest.mark.parametrize("screen", SCREENS)
def test_the_whole_story(browser: Browser, stack: LocalStack, commet: Control, screen: str) -> None:
    """Every flow works without a script, on a phone, and in dark colours."""
    broken = _tell(browser, stack, commet, screen, Mouse())
    assert broken == {}


@pytest.mark.parametrize("screen", ["1280-light-script", "390-dark-no-script"])
def test_the_whole_story_with_a_keyboard_alone(
    browser: Browser, stack: LocalStack, commet: Control, screen: str
) -> None:
    """Commet's pages included. The focus can be seen at every stop."""
    keyboard = Keyboard()
    broken = _tell(browser, stack, commet, screen, keyboard)
    sys.stderr.write(f"\n{keyboard.stops} stops\n")
    assert keyboard.stops > 100
    assert (broken, keyboard.unseen) == ({}, [])


def _tell(
    browser: Browser, stack: LocalStack, commet: Control, screen: str, hands: Hands
) -> dict[str, Any]:
    """Goes the whole way. Returns what is wrong on the pages, by their addresses."""
    width, scheme, script = screen.split("-", 2)
    has_script = script == "script"
    context = browser.new_context(
        viewport={"width": int(width), "height": 800},
        color_scheme=scheme,  # type: ignore[arg-type]
        java_script_enabled=has_script,
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE)
    errors, broken = errors_of(context), {}

    def look(page: Page) -> None:
        # Axe needs scripts.
        found = violations(page) if has_script else {}
        if wide := overflow(page):
            found["overflow"] = wide
        if found:
            broken[page.url] = found

    email = f"{uuid4().hex}@example.com"
    Visitor(
        context.new_page(), stack, commet, email, has_script=has_script, look=look, hands=hands
    ).go_all_the_way()
    context.close()
    assert errors == []
    return broken


def accounts(stack: LocalStack, email: str) -> int:
    with psycopg.connect(stack.database_url) as connection:
        query = "select count(*) from users where email = %s"
        row = connection.execute(query, [email]).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(params=[True, False], ids=["script", "no-script"])
def either(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page with and without a script."""
    context = browser.new_context(java_script_enabled=request.param)
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


class TestTwoFastClicks:
    def test_on_sign_up_make_one_account(self, either: Page, stack: LocalStack) -> None:
        """And the person is signed in by it."""
        email = f"twice-{uuid4().hex}@example.com"
        either.goto(f"{stack.api}/app/signup")
        either.get_by_label("E-mail").fill(email)
        either.get_by_label("Password").fill(PASSWORD)
        either.get_by_role("button", name="Create account").dblclick(no_wait_after=True)
        heading = either.get_by_role("heading", level=1)
        expect(heading).to_have_text("Look into your mailbox", timeout=PATIENCE)
        assert accounts(stack, email) == 1

    def test_on_checkout_begin_one_checkout(
        self, either: Page, stack: LocalStack, join: Join, commet: Control
    ) -> None:
        ana = join()
        ana.enter(either.context)
        either.goto(f"{stack.api}/app/checkout?plan=usage_pro")
        either.get_by_role("button", name="Go on to payment").dblclick(no_wait_after=True)
        expect(either).to_have_url(re.compile(r"/checkout/"), timeout=PATIENCE)
        assert len(commet.customer(ana.id)["subscriptions"]) == 1


class TestBack:
    def test_after_a_form_the_button_works_again(self, page: Page, stack: LocalStack) -> None:
        page.goto(f"{stack.api}/app/login")
        page.get_by_label("E-mail").fill("nobody@example.com")
        page.get_by_label("Password").fill("not a password")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_be_visible()
        page.go_back()
        page.get_by_label("E-mail").fill("nobody@example.com")
        page.get_by_label("Password").fill("still not a password")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_be_visible()

    def test_after_signing_out_nothing_is_shown(
        self, page: Page, context: BrowserContext, stack: LocalStack, join: Join
    ) -> None:
        """Pages are not stored, so Back asks the server, which asks to sign in."""
        ana = join("free")
        ana.enter(context)
        page.goto(f"{stack.api}/app/account")
        expect(page.get_by_role("main")).to_contain_text(ana.email)
        page.get_by_role("button", name="Sign out", exact=True).first.click()
        expect(page).to_have_url(re.compile("signed_out"))
        page.go_back()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        expect(page.get_by_role("main")).not_to_contain_text(ana.email)

    def test_from_the_payment_leads_to_the_checkout(
        self, page: Page, context: BrowserContext, stack: LocalStack, join: Join, commet: Control
    ) -> None:
        """From there the same payment is gone on with."""
        ana = join()
        ana.enter(context)
        page.goto(f"{stack.api}/app/checkout?plan=usage_pro")
        for _ in range(2):
            page.get_by_role("button", name="Go on to payment").click()
            expect(page).to_have_url(re.compile(r":\d+/checkout/"), timeout=PATIENCE)
            page.go_back()
            expect(page.get_by_role("heading", level=1)).to_have_text("Checkout: Usage Pro")
        assert len(commet.customer(ana.id)["subscriptions"]) == 1


class TestTwoTabs:
    def test_a_session_that_ended_meanwhile_loses_nothing(
        self, page: Page, context: BrowserContext, stack: LocalStack, join: Join
    ) -> None:
        """What was typed is sent after signing in, when the person says so."""
        ana = join("usage_pro")
        ana.enter(context)
        page.goto(f"{stack.api}/app")
        page.get_by_label(LIMIT).fill("123.45")
        other = context.new_page()
        other.goto(f"{stack.api}/app")
        other.get_by_role("button", name="Sign out", exact=True).click()
        expect(other).to_have_url(re.compile("signed_out"))
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_contain_text("what you typed is kept")
        assert violations(page) == {}
        page.get_by_label("E-mail").fill(ana.email)
        page.get_by_label("Password").fill("not a password")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("wrong")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("You are signed in again")
        assert violations(page) == {}
        page.get_by_role("button", name="Send it now").click()
        expect(page.get_by_label(LIMIT)).to_have_value("123.45")

    def test_both_cancel(
        self, page: Page, context: BrowserContext, stack: LocalStack, join: Join
    ) -> None:
        """The second finds the plan canceled, and no error."""
        join("usage_pro").enter(context)
        other = context.new_page()
        for tab in (page, other):
            tab.goto(f"{stack.api}/app/billing/cancel")
        for tab in (page, other):
            tab.get_by_role("button", name="Cancel on").click()
            expect(tab.get_by_role("heading", level=1)).to_have_text("Billing")
            expect(tab.get_by_role("alert")).to_have_count(0)
            expect(tab.get_by_role("main")).to_contain_text("ends on")


class _Elsewhere(BaseHTTPRequestHandler):
    """A page of another site: a form that it sends to a page of ours, at once."""

    def do_GET(self) -> None:
        target, _, sandboxed = self.path[1:].partition("!")
        form = (
            f'<form method="post" action="{target}"><input name="email" value="eve@example.com">'
            f'<input name="password" value="{PASSWORD}"></form>'
            "<script>document.forms[0].submit()</script>"
        )
        if sandboxed:  # sends `Origin: null`
            flags = "allow-forms allow-scripts allow-top-navigation"
            quoted = form.replace("<form ", '<form target="_top" ').replace('"', "&quot;")
            form = f'<iframe sandbox="{flags}" srcdoc="{quoted}"></iframe>'
        body = form.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The address of another site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("sandboxed", ["", "!"], ids=["origin", "null-origin"])
@pytest.mark.parametrize("path", ["/app/login", "/app/signup", "/app/forgot"])
def test_a_form_on_another_site_is_refused(
    page: Page, stack: LocalStack, elsewhere: str, path: str, sandboxed: str
) -> None:
    """Sign-in and sign-up included, which have no session yet."""
    _expect_refused(page, f"{elsewhere}/{stack.api}{path}{sandboxed}", f"{stack.api}{path}")
    assert accounts(stack, "eve@example.com") == 0


def test_another_site_cannot_cancel(
    page: Page, stack: LocalStack, elsewhere: str, join: Join
) -> None:
    """Though the browser is signed in, and the site is on the same machine."""
    ana = join("usage_pro")
    ana.enter(page.context)
    path = "/app/billing/cancel"
    _expect_refused(page, f"{elsewhere}/{stack.api}{path}", f"{stack.api}{path}")
    assert not ana.http.get("/dashboard").json()["subscription"]["cancel_at_period_end"]


def _expect_refused(page: Page, address: str, target: str) -> None:
    with page.expect_response(target) as answer:
        page.goto(address)
    assert answer.value.status == 403
    expect(page.get_by_role("main")).to_contain_text("origin_not_allowed")
    assert violations(page) == {}
