"""Somebody who goes through the pages of a running stack in a browser.

    visitor = Visitor(page, stack, commet, "ana@example.com")
    visitor.choose()
    visitor.sign_up()
    ...

The stand-in's own pages, the mailbox and the bar that skips time are on the way. Where others use
the stack too, `skips_time` is false. `look` is called on each page of ours. `hands` say whether the
person has a mouse, as usual, or a keyboard alone.
"""

import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
from playwright.sync_api import BrowserContext, Locator, Page, Response, expect

from local.stack import LocalStack
from standin.testing import Control
from tests.hands import Hands, Mouse

PASSWORD = "a long walk home"
PATIENCE = 30_000  # in milliseconds: the machine may be busy

_CHECKOUT = re.compile(r":\d+/checkout/")
_PORTAL = re.compile(r":\d+/portal/")
_AFTER_PAYMENT = re.compile(r"/app(/thanks)?\?")
_WELCOME = re.compile(r"/app\?done=welcome$")


def errors_of(context: BrowserContext) -> list[str]:
    """The errors of all pages of the context, as they come; breaches of the pages' policy included.

    The browser also reports each page that is answered with a status such as 422. Those are not
    errors of a page, unless what failed is a file of a page.
    """
    errors: list[str] = []

    def say(text: str) -> None:
        if not text.startswith("Failed to load resource: the server responded with a status of"):
            errors.append(text)

    def answered(answer: Response) -> None:
        if answer.status >= 400 and answer.request.resource_type != "document":
            errors.append(f"{answer.status} for {answer.url}")

    context.on("response", answered)
    context.on("weberror", lambda raised: say(str(raised.error)))
    context.on("console", lambda said: say(said.text) if said.type == "error" else None)
    context.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith(("http://127.0.0.1:", "data:"))
            else errors.append(f"A request leaves this machine: {asked.url}")
        ),
    )
    return errors


def mail_to(stack: LocalStack, address: str, *, seconds: float = 20) -> dict[str, Any]:
    """The newest mail to the address, once there is one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = httpx.get(
            stack.mailbox,
            params={"to": address},
            headers={"accept": "application/json"},
            trust_env=False,
        )
        if mails := answer.json()["mails"]:
            newest: dict[str, Any] = mails[0]
            return newest
        time.sleep(0.02)
    raise AssertionError("The mail has not arrived.")


class Visitor:
    """A person with one tab. Each step expects the page on which the step before has ended."""

    def __init__(
        self,
        page: Page,
        stack: LocalStack,
        commet: Control,
        email: str,
        *,
        has_script: bool = True,
        skips_time: bool = True,
        look: Callable[[Page], object] = lambda _: None,
        hands: Hands | None = None,
    ) -> None:
        self.page = page
        self.stack = stack
        self.commet = commet
        self.email = email
        self.has_script = has_script
        self.skips_time = skips_time
        self._look = look
        self.hands = hands or Mouse()
        self.main = page.get_by_role("main")

    @property
    def id(self) -> str:
        """The id of the user, once they have signed up."""
        with psycopg.connect(self.stack.database_url) as connection:
            query = "select id from users where email = %s"
            row = connection.execute(query, [self.email]).fetchone()
        assert row is not None, self.email
        return str(row[0])

    def read(self, heading: str, page: Page | None = None) -> None:
        """Waits for the page with the heading, and looks at it."""
        page = page or self.page
        expect(page.get_by_role("heading", level=1, name=heading)).to_be_visible(timeout=PATIENCE)
        self._look(page)

    def press(self, name: str) -> None:
        self.hands.click(self.page.get_by_role("button", name=name, exact=True))

    def follow(self, name: str, page: Page | None = None) -> None:
        """Goes on by a link of the navigation or of the page."""
        page = page or self.page
        self.hands.click(page.get_by_role("link", name=name, exact=True).first)

    def fill(self, label: str, text: str) -> None:
        """Types into a field."""
        self.hands.fill(self.field(label), text)

    def field(self, label: str) -> Locator:
        return self.page.get_by_label(label)

    def says(self, text: str) -> None:
        """Waits until the page has the text."""
        expect(self.main).to_contain_text(text, timeout=PATIENCE)

    def choose(self) -> None:
        """Works out what 140 GB cost, and chooses a plan."""
        self.page.goto(self.stack.api)
        self.read("Pay for what you use")
        self.fill("Storage", "140")
        self.press("Work it out")
        self.says("$33.00")
        self.read("Pay for what you use")
        self.hands.click(self.page.get_by_role("link", name="Usage Pro"))

    def sign_up(self) -> None:
        """Signs up, at first with a password that is too short."""
        self.read("Create your account")
        self.fill("E-mail", self.email)
        self.fill("Password", "short")
        self.press("Create account")
        expect(self.field("Password")).to_have_attribute("aria-invalid", "true")
        expect(self.field("E-mail")).to_have_value(self.email)
        self.read("Create your account")
        self.fill("Password", PASSWORD)
        self.fill("Name", "Ana Ruiz")
        self.press("Create account")

    def confirm(self) -> None:
        """Confirms the address by the link in the mailbox."""
        self.read("Look into your mailbox")
        link = re.search(
            r"http\S+/verify-email\?token=\S+", mail_to(self.stack, self.email)["text"]
        )
        assert link is not None
        self.page.goto(link[0])
        self.read("Confirm your address")
        self.press("Confirm the address")

    def pay(self) -> None:
        """Pays on the stand-in's page, while another tab waits for the payment."""
        self.read("Usage Pro")
        self.says("Your address is confirmed")
        self.press("Go on to payment")
        expect(self.page).to_have_url(_CHECKOUT, timeout=PATIENCE)
        waiting = self.page.context.new_page()
        waiting.goto(f"{self.stack.api}/app/thanks?plan=usage_pro")
        self.read("Thank you", waiting)
        self.fill("Card number", "4242424242424242")
        self.fill("Expiry", "12/34")
        self.fill("Security code", "123")
        self.fill("Name on card", "Ana Ruiz")
        self.hands.click(self.page.get_by_role("button", name="Pay"))
        expect(self.page).to_have_url(_AFTER_PAYMENT, timeout=PATIENCE)
        self.commet.settle()
        for tab in (self.page, waiting):
            if not self.has_script and not _WELCOME.search(tab.url):
                self.follow("Look again", tab)
            expect(tab).to_have_url(_WELCOME, timeout=PATIENCE)
        waiting.close()

    def use(self) -> None:
        """Uses more than the plan includes, and sets a spend limit."""
        self.read("Overview")
        # What the plan includes is told a moment after the payment.
        if self.main.get_by_role("link", name="Look again").is_visible():
            self.follow("Look again")
        self.says("Nothing used yet")
        self.report("131.5", key=f"first-{self.email}")
        if self.skips_time:
            self.press("Skip a day")
        else:
            self.page.reload()
        self.says("31.5 GB beyond: $3.15")
        self.follow("Storage")
        self.hands.click(self.page.get_by_text("Show the days as a table"))
        expect(self.main.get_by_role("columnheader", name="Total so far")).to_be_visible()
        self.read("Overview")
        self.fill("For usage beyond your plan", "100")
        self.press("Save")
        self.says("The new limit holds from now on")
        self.read("Overview")

    def report(self, quantity: str, *, key: str, region: str = "eu") -> None:
        """What the product's backend does when the person uses storage."""
        body = {"user_id": self.id, "feature": "storage", "quantity": quantity}
        answer = httpx.post(
            f"{self.stack.api}/usage",
            json=body | {"idempotency_key": key, "properties": {"region": region}},
            headers={"authorization": f"Bearer {self.stack.service_key}"},
            timeout=40,
            trust_env=False,
        )
        assert answer.status_code == 202, answer.text

    def look_back(self) -> None:
        """Reads the days of usage, and those of one property."""
        self.follow("Usage")
        self.read("Usage")
        self.hands.pick(self.page.get_by_label("Feature", exact=True), "Storage")
        self.fill("By property", "region")
        self.press("Show")
        expect(self.main.get_by_role("columnheader", name="eu")).to_be_visible(timeout=PATIENCE)
        self.read("Usage")

    def waver(self) -> None:
        """Cancels the plan, and keeps it."""
        self.follow("Billing")
        self.read("Billing")
        self.follow("Cancel")
        self.read("Cancel Usage Pro?")
        self.hands.click(self.page.get_by_role("button", name="Cancel on"))
        self.says("Usage Pro ends on")
        self.read("Billing")
        self.hands.click(self.main.get_by_role("button", name="Keep").first)
        self.says("Your plan goes on")

    def cancel_at_commet(self) -> None:
        """Cancels in Commet's portal, and finds the plan canceled on our page."""
        self.press("Open the portal")
        expect(self.page).to_have_url(_PORTAL, timeout=PATIENCE)
        self.hands.click(self.page.locator("summary", has_text="Cancel subscription"))
        self.hands.check(self.page.get_by_label("At the end of the period"))
        self.press("Cancel subscription")
        expect(self.page.get_by_test_id("ending")).to_be_visible(timeout=PATIENCE)
        self.commet.settle()
        self.hands.click(self.page.get_by_role("link", name="Back to the product"))
        self.read("Billing")
        self.says("Usage Pro ends on")

    def lose_access(self) -> None:
        """A month later the plan has ended. By then the session has ended, too."""
        self.press("Skip a month")
        self.read("Sign in")
        self.fill("E-mail", self.email)
        self.fill("Password", PASSWORD)
        self.press("Sign in")
        self.read("Billing")
        self.says("You have no plan.")

    def leave(self) -> None:
        """Reads the account, and signs out."""
        self.follow("Account")
        self.read("Account")
        self.press("Sign out")
        expect(self.page).to_have_url(f"{self.stack.api}/?done=signed_out", timeout=PATIENCE)
        self.page.goto(f"{self.stack.api}/app")
        self.read("Sign in")

    def go_all_the_way(self) -> None:
        """From the prices to signing out."""
        self.choose()
        self.sign_up()
        self.confirm()
        self.pay()
        self.use()
        self.look_back()
        self.waver()
        self.cancel_at_commet()
        if self.skips_time:
            self.lose_access()
        self.leave()
