"""The stand-in's hosted pages in a real browser, as a buyer and a subscriber see them."""

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from standin.testing import StandIn, standin

SUCCESS = re.compile(r"/healthz$")


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standin() as running:
        yield running


class Api:
    """A few calls of the API, without any client library."""

    def __init__(self, server: StandIn) -> None:
        self._http = httpx.Client(
            base_url=server.base_url, headers={"x-api-key": server.api_key}, timeout=10
        )

    def post(self, path: str, **body: object) -> dict[str, str]:
        answer = self._http.post(path, json=body)
        answer.raise_for_status()
        created: dict[str, str] = answer.json()
        return created

    def status(self, subscription_id: str) -> str:
        return str(self._http.get(f"/subscriptions/{subscription_id}").json()["status"])

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def api(server: StandIn) -> Iterator[Api]:
    client = Api(server)
    client.post("/customers", id="usr_1", email="ana@example.com", fullName="Ana Ruiz")
    yield client
    client.close()


@pytest.fixture
def order(server: StandIn, api: Api) -> dict[str, str]:
    """A pending subscription that leads back to a page of ours once it is paid."""
    return api.post(
        "/subscriptions",
        customerId="usr_1",
        planCode="usage_pro",
        successUrl=f"{server.public_url}/healthz",
    )


def _fill(page: Page, number: str) -> None:
    page.get_by_label("Card number").fill(number)
    page.get_by_label("Expiry").fill("12/34")
    page.get_by_label("Security code").fill("123")
    page.get_by_label("Name on card").fill("Ana Ruiz")


def test_paying_with_a_good_card(page: Page, api: Api, order: dict[str, str]) -> None:
    """Plan, price and what is included are shown; paying leads back to the seller."""
    page.goto(order["checkoutUrl"])
    expect(page.get_by_role("heading", name="Usage Pro")).to_be_visible()
    expect(page.get_by_text("100 GB storage included each month")).to_be_visible()
    expect(page.get_by_text("then $0.10 per GB")).to_be_visible()
    _fill(page, "4242424242424242")
    page.get_by_role("button", name="Pay $29.00").click()
    expect(page).to_have_url(SUCCESS)
    assert api.status(order["id"]) == "active"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("4000000000000002", "Your card was declined."),
        ("4000000000009995", "Your card has insufficient funds."),
        ("4000000000000069", "Your card has expired."),
        ("4000000000003220", "Authentication is not supported here."),
    ],
)
def test_a_refused_card_can_be_replaced(
    page: Page, api: Api, order: dict[str, str], number: str, words: str
) -> None:
    """The page says why, keeps the name, and takes another card."""
    page.goto(order["checkoutUrl"])
    _fill(page, number)
    page.get_by_role("button", name="Pay").click()
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_label("Name on card")).to_have_value("Ana Ruiz")
    expect(page.get_by_label("Card number")).to_have_value("")
    assert api.status(order["id"]) == "pending_payment"
    _fill(page, "4242424242424242")
    page.get_by_role("button", name="Pay").click()
    expect(page).to_have_url(SUCCESS)
    assert api.status(order["id"]) == "active"


def test_an_empty_form_marks_its_fields(page: Page, order: dict[str, str]) -> None:
    """Each problem stands at its field, for screen readers too."""
    page.goto(order["checkoutUrl"])
    page.get_by_role("button", name="Pay").click()
    number = page.get_by_label("Card number")
    expect(number).to_have_attribute("aria-invalid", "true")
    expect(number).to_have_accessible_description("Check the card number.")


def _open_portal(page: Page, server: StandIn, api: Api, order: dict[str, str]) -> None:
    server.control.pay(order["id"])
    api.post("/usage/events", customerId="usr_1", featureCode="storage", value=130)
    page.goto(api.post("/portal/sessions", customerId="usr_1")["portalUrl"])


def test_the_portal_shows_what_is_used_and_owed(
    page: Page, server: StandIn, api: Api, order: dict[str, str]
) -> None:
    """Usage with its cost, and the paid invoice."""
    _open_portal(page, server, api, order)
    usage = page.get_by_role("region", name="Usage")
    expect(usage).to_contain_text("130 of 100 GB")
    expect(usage).to_contain_text("$3.00")
    invoices = page.get_by_role("region", name="Invoices")
    expect(invoices.get_by_role("row")).to_have_count(2)
    expect(invoices).to_contain_text("$29.00")


def test_cancelling_at_period_end_and_changing_ones_mind(
    page: Page, server: StandIn, api: Api, order: dict[str, str]
) -> None:
    """Scheduled, taken back, and then ended at once."""
    _open_portal(page, server, api, order)
    page.locator("summary", has_text="Cancel subscription").click()
    expect(page.get_by_label("At the end of the period")).to_be_checked()
    page.get_by_role("button", name="Cancel subscription").click()
    expect(page.get_by_role("status")).to_contain_text("will end with the current period")
    expect(page.get_by_test_id("ending")).to_be_visible()
    assert api.status(order["id"]) == "active"

    page.get_by_role("button", name="Keep subscription").click()
    expect(page.get_by_role("status")).to_contain_text("continues")
    expect(page.get_by_test_id("ending")).to_have_count(0)

    page.locator("summary", has_text="Cancel subscription").click()
    page.get_by_label("Now.").check()
    page.get_by_role("button", name="Cancel subscription").click()
    expect(page.get_by_test_id("status")).to_contain_text("no running subscription")
    assert api.status(order["id"]) == "canceled"


def test_changing_the_plan(page: Page, server: StandIn, api: Api, order: dict[str, str]) -> None:
    """What it costs is shown first; then up at once, and down again at the end of the period."""
    _open_portal(page, server, api, order)
    page.locator("summary", has_text="Change plan").click()
    page.get_by_role("button", name="Choose Usage Max per month").click()
    expect(page.get_by_role("heading", name="Change to Usage Max")).to_be_visible()
    expect(page.get_by_text("Storage: 30 GB beyond 100")).to_be_visible()
    expect(page.get_by_test_id("total")).to_have_text("$73.00")
    page.get_by_role("button", name="Pay $73.00 and change").click()
    expect(page.get_by_role("status")).to_contain_text("has been changed")
    expect(page.get_by_role("heading", name="Usage Max")).to_be_visible()

    page.locator("summary", has_text="Change plan").click()
    page.get_by_role("button", name="Choose Usage Pro per month").click()
    page.get_by_role("link", name="Keep Usage Max").click()
    expect(page.get_by_test_id("next-plan")).to_have_count(0)
    page.locator("summary", has_text="Change plan").click()
    page.get_by_role("button", name="Choose Usage Pro per month").click()
    page.get_by_role("button", name="Change on").click()
    expect(page.get_by_test_id("next-plan")).to_contain_text("Usage Pro from")
    invoice = page.get_by_role("link", name="INV-0002")
    page.goto(str(invoice.get_attribute("href")))
    expect(page.get_by_role("heading", name="Invoice INV-0002")).to_be_visible()


def test_resuming_and_coming_back(
    page: Page, server: StandIn, api: Api, order: dict[str, str]
) -> None:
    """A pause can be ended, and so can an end."""
    server.control.pay(order["id"])
    api.post(f"/subscriptions/{order['id']}/pause", mode="immediate", durationDays=7)
    page.goto(api.post("/portal/sessions", customerId="usr_1")["portalUrl"])
    expect(page.get_by_test_id("status")).to_have_text("Paused")
    page.get_by_label("Length in days").fill("14")
    page.get_by_role("button", name="Change length").click()
    expect(page.get_by_label("Length in days")).to_have_value("14")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_test_id("status")).to_have_text("Active")

    api.post(f"/subscriptions/{order['id']}/cancel", immediate=True)
    page.reload()
    page.get_by_role("button", name="Reactivate for $29.00 per month").click()
    expect(page.get_by_role("status")).to_contain_text("Welcome back")
    assert api.status(order["id"]) == "active"


def test_paying_a_link(page: Page, server: StandIn, api: Api) -> None:
    """Somebody without an account: a declined card, then a good one, then nothing more to pay."""
    link = api.post("/payments", amount=5000, currency="usd", description="Onboarding")
    page.goto(link["url"])
    expect(page.get_by_role("heading", name="Onboarding")).to_be_visible()
    page.get_by_label("Email").fill("bea@example.com")
    for number in ("4000000000000002", "4242424242424242"):
        page.get_by_label("Card number").fill(number)
        page.get_by_label("Expiry").fill("12/34")
        page.get_by_label("Security code").fill("123")
        page.get_by_role("button", name="Pay $50.00").click()
        if number.endswith("0002"):
            expect(page.get_by_role("alert")).to_contain_text("declined")
            expect(page.get_by_label("Email")).to_have_value("bea@example.com")
    expect(page.get_by_role("heading", name="Payment received")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Payment received")).to_be_visible()
    assert len(server.control.events("payment_link.completed")) == 1


def test_trying_the_card_again(
    page: Page, server: StandIn, api: Api, order: dict[str, str]
) -> None:
    """Where the last payment failed, without giving another card; or with one kept in reserve."""
    server.control.pay(order["id"])
    server.control.set_card("usr_1", charge_failure="card_declined")
    server.control.advance(days=31)
    page.goto(api.post("/portal/sessions", customerId="usr_1")["portalUrl"])
    page.get_by_role("button", name="Try Visa ending 4242 again").click()
    expect(page.get_by_role("alert")).to_contain_text("The charge was declined")
    page.get_by_label("Card number").fill("5555555555554444")
    page.get_by_label("Expiry").fill("12/34")
    page.get_by_label("Security code").fill("123")
    page.get_by_label("Charge this card only when").check()
    page.get_by_role("button", name="Save card").click()
    expect(page.get_by_test_id("other-cards")).to_have_text("Mastercard ending 4444")
    server.control.set_card("usr_1", charge_failure=None)
    page.get_by_role("button", name="Try Visa ending 4242 again").click()
    expect(page.get_by_role("status")).to_contain_text("active again")
    assert api.status(order["id"]) == "active"


def test_replacing_the_card(page: Page, server: StandIn, api: Api, order: dict[str, str]) -> None:
    """By its own link, back to the seller."""
    server.control.pay(order["id"])
    link = api.post(
        f"/subscriptions/{order['id']}/payment-method/update",
        successUrl=f"{server.public_url}/healthz",
    )
    page.goto(link["checkoutUrl"])
    page.get_by_label("Card number").fill("5555555555554444")
    page.get_by_label("Expiry").fill("12/34")
    page.get_by_label("Security code").fill("123")
    page.get_by_role("button", name="Save card").click()
    expect(page).to_have_url(SUCCESS)


def test_pages_fit_a_phone(browser: Browser, server: StandIn, api: Api) -> None:
    """Nothing has to be scrolled sideways to be read."""
    sub = api.post("/subscriptions", customerId="usr_1", planCode="usage_pro")
    with browser.new_context(viewport={"width": 360, "height": 700}) as context:
        page = context.new_page()
        page.goto(sub["checkoutUrl"])
        assert _overflow(page) == 0
        _open_portal(page, server, api, sub)
        assert _overflow(page) == 0
        table = page.get_by_role("region", name="Invoices").locator(".scroll")
        assert table.evaluate("table => table.scrollWidth - table.clientWidth") == 0
        page.locator("summary", has_text="Change plan").click()
        page.get_by_role("button", name="Choose Usage Max per month").click()
        assert _overflow(page) == 0


def _overflow(page: Page) -> int:
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return max(0, int(wide))
