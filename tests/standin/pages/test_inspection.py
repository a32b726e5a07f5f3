"""The page that shows what happens inside the stand-in, in a real browser."""

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from standin.catalogue import DEFAULT_FILE
from standin.testing import Receiver, StandIn, receiver, standin
from tests.http_server import Response, serving


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standin() as running:
        yield running


@pytest.fixture
def http(server: StandIn) -> Iterator[httpx.Client]:
    headers = {"x-api-key": server.api_key}
    with httpx.Client(base_url=server.base_url, headers=headers, timeout=10) as client:
        yield client


@pytest.fixture
def hooks(http: httpx.Client) -> Iterator[Receiver]:
    with receiver() as box:
        http.post("/webhooks", json={"url": box.url, "events": ["customer.created"]})
        yield box


def _create(http: httpx.Client, name: str = "ana") -> None:
    body = {"id": f"usr_{name}", "email": f"{name}@example.com"}
    assert http.post("/customers", json=body).status_code == 201


def _open(page: Page, server: StandIn, view: str = "") -> None:
    page.goto(f"{server.public_url}/_standin/{f'?view={view}' if view else ''}")


def test_a_browser_is_led_to_the_page(page: Page, server: StandIn) -> None:
    """The address that programs read as JSON."""
    page.goto(f"{server.public_url}/_standin")
    expect(page).to_have_url(re.compile("/_standin/$"))
    expect(page.get_by_text("Nobody has asked anything yet.")).to_be_visible()
    assert httpx.get(f"{server.public_url}/_standin").json()["counts"]["customers"] == 0


def test_a_request_and_its_answer(page: Page, server: StandIn, http: httpx.Client) -> None:
    """What came in, what went out, and what struck it."""
    server.control.fault(action={"status": 503, "after": True})
    http.post("/customers", json={"id": "usr_<b>", "email": "ana@example.com"})
    _open(page, server)
    row = page.get_by_role("region", name="Requests").locator("details")
    expect(row).to_contain_text(re.compile("POST.*/customers.*fault.*503", re.DOTALL))
    row.locator("summary").click()
    expect(page.get_by_role("region", name="Request body")).to_contain_text('"id": "usr_<b>"')
    expect(page.get_by_role("region", name="Answer")).to_contain_text("internal_error")


def test_events_and_customers(page: Page, server: StandIn, http: httpx.Client) -> None:
    """What happened, and what it came to."""
    _create(http)
    order = http.post("/subscriptions", json={"customerId": "usr_ana", "planCode": "usage_pro"})
    server.control.pay(order.json()["id"])
    event = {"customerId": "usr_ana", "featureCode": "storage", "value": 130.5}
    assert http.post("/usage/events", content=_json(event)).status_code == 201
    _open(page, server, "events")
    events = page.get_by_role("region", name="Events")
    expect(events.locator("b").first).to_have_text("quota.exceeded")
    expect(events.get_by_text("subscription.activated")).to_be_visible()
    page.get_by_role("navigation").get_by_role("link", name="Customers").click()
    row = page.get_by_role("region", name="Customers").locator("summary")
    expect(row).to_contain_text(
        re.compile("usr_ana.*130.5 of 100 GB.*Usage Pro.*Active", re.DOTALL)
    )


def test_requests_are_filtered(page: Page, server: StandIn, http: httpx.Client) -> None:
    """By method and path; of reads that get the same answer all the time, only the newest shows."""
    for _ in range(3):
        http.get("/plans")
    _create(http)
    for _ in range(3):
        http.get("/webhooks")
    _open(page, server)
    rows = page.get_by_role("region", name="Requests").locator("summary")
    expect(rows).to_have_count(3)
    page.get_by_label("Reads that got the same answer again").check()
    page.get_by_role("button", name="Show").click()
    expect(rows).to_have_count(7)
    page.get_by_label("Path contains").fill("plan")
    page.get_by_role("button", name="Show").click()
    expect(rows).to_have_count(3)
    expect(page.get_by_label("Path contains")).to_have_value("plan")
    page.get_by_label("Method").select_option("POST")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("No request is like this.")).to_be_visible()


def test_a_trial_shows_its_end(page: Page, tmp_path: Path) -> None:
    """At once, to whoever looks inside and to the customer."""
    catalogue = json.loads(DEFAULT_FILE.read_text(encoding="utf-8"))
    catalogue["plans"][1]["prices"][0]["trialDays"] = 14
    (tmp_path / "plans.json").write_text(json.dumps(catalogue), encoding="utf-8")
    with (
        standin(catalogue=tmp_path / "plans.json") as server,
        httpx.Client(base_url=server.base_url, headers={"x-api-key": server.api_key}) as http,
    ):
        _create(http)
        order = {"customerId": "usr_ana", "planCode": "usage_pro"}
        server.control.pay(http.post("/subscriptions", json=order).json()["id"])
        end = server.control.now() + timedelta(days=14)
        _open(page, server, "customers")
        row = page.get_by_role("region", name="Customers").locator("summary")
        expect(row).to_contain_text(f"until {end:%Y-%m-%d}")
        portal = http.post("/portal/sessions", json={"customerId": "usr_ana"}).json()
        page.goto(portal["portalUrl"])
        expect(page.get_by_test_id("trial-end")).to_contain_text(str(end.day))


def _json(value: dict[str, object]) -> bytes:
    return httpx.Request("POST", "http://x", json=value).read()


def test_a_delivery_can_be_sent_again(
    page: Page, server: StandIn, http: httpx.Client, hooks: Receiver
) -> None:
    """Each attempt with what the receiver said."""
    hooks.statuses = [500]
    _create(http)
    server.control.settle()
    _open(page, server, "deliveries")
    row = page.get_by_role("region", name="Deliveries").locator("details")
    expect(row).to_contain_text(re.compile("1 attempt.*pending", re.DOTALL))
    row.locator("summary").click()
    expect(row.get_by_role("listitem")).to_contain_text("500")
    row.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("status")).to_contain_text("Sent again, and acknowledged.")
    expect(row).to_contain_text(re.compile("2 attempts.*delivered", re.DOTALL))
    assert len(hooks.received) == 2


def test_the_clock_can_be_advanced(page: Page, server: StandIn, http: httpx.Client) -> None:
    """What was due is done when the page is back."""
    _create(http)
    order = http.post("/subscriptions", json={"customerId": "usr_ana", "planCode": "usage_pro"})
    server.control.pay(order.json()["id"])
    before = server.control.now()
    _open(page, server, "events")
    page.get_by_label("How many").fill("5")
    page.get_by_label("Unit").select_option("weeks")
    page.get_by_role("button", name="Advance").click()
    expect(page.get_by_role("status")).to_contain_text("The clock has been moved")
    assert (server.control.now() - before).days == 35
    expect(page.get_by_text("invoice.upcoming").first).to_be_visible()


def test_faults_can_be_picked_written_and_cleared(
    page: Page, server: StandIn, http: httpx.Client
) -> None:
    """And they strike."""
    _open(page, server, "faults")
    expect(page.get_by_text("Everything behaves.")).to_be_visible()
    page.get_by_label("What").select_option("unavailable")
    page.get_by_label("How often").select_option("once")
    page.get_by_role("button", name="Put in force").click()
    expect(page.get_by_role("status")).to_contain_text("The rule is in force.")
    assert http.get("/plans").status_code == 503
    page.reload()
    expect(page.get_by_test_id("rule")).to_contain_text("used up")

    page.locator("summary", has_text="Write a rule").click()
    page.get_by_label("Rule as JSON").fill('{"action": {"explode": true}}')
    page.get_by_role("button", name="Put rule in force").click()
    expect(page.get_by_role("alert")).to_contain_text("Not a rule")
    page.locator("summary", has_text="Write a rule").click()
    page.get_by_label("Rule as JSON").fill('{"action": {"status": 418}}')
    page.get_by_role("button", name="Put rule in force").click()
    expect(page.get_by_test_id("rule")).to_have_count(2)
    assert http.get("/plans").status_code == 418

    page.get_by_role("button", name="Clear all").click()
    expect(page.get_by_text("Everything behaves.")).to_be_visible()
    assert http.get("/plans").status_code == 200


def test_every_preset_is_a_rule(server: StandIn) -> None:
    """None of the choices on the page is refused."""
    from standin.pages.inspection import PRESETS

    for name in PRESETS:
        form = {"preset": name, "times": "1"}
        answer = httpx.post(f"{server.public_url}/_standin/ui/faults", data=form)
        assert answer.status_code == 303
    assert len(server.control.faults()) == len(PRESETS)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"count": "0", "unit": "day"}, "Move by a minute"),
        ({"count": "one", "unit": "day"}, "whole number"),
        ({"count": "1", "unit": "eon"}, "whole number"),
        ({"count": "999999", "unit": "week"}, "ten years"),
        ({}, "whole number"),
    ],
)
def test_a_step_that_cannot_be_is_refused(
    server: StandIn, form: dict[str, str], words: str
) -> None:
    """Said on the page; the clock stays."""
    answer = httpx.post(f"{server.public_url}/_standin/ui/clock", data=form)
    assert answer.status_code == 400
    assert words in answer.text


def test_a_page_on_another_port_cannot_move_the_clock(browser: Browser, server: StandIn) -> None:
    """A form needs no permission of the browser's; what it sends says where it comes from."""
    page = f"""<form method="post" action="{server.public_url}/_standin/ui/clock">
        <input name="count" value="7"><input name="unit" value="day"><button>Go</button></form>"""

    with (
        serving(lambda _: Response(page.encode(), content_type="text/html")) as foreign,
        browser.new_context() as context,
    ):
        opened = context.new_page()
        opened.goto(f"{foreign}/")
        opened.get_by_role("button", name="Go").click()
        expect(opened.get_by_role("heading")).to_have_text("This came from another site")
    assert httpx.get(f"{server.public_url}/_standin/clock").json()["moved"] is False


def test_the_page_follows_what_happens(
    browser: Browser, server: StandIn, http: httpx.Client
) -> None:
    """Without reloading; an open row stays open, and a half-filled form as it is."""
    _create(http, "ana")
    with browser.new_context() as context:
        page = context.new_page()
        _open(page, server)
        rows = page.get_by_role("region", name="Requests").locator("details")
        rows.first.locator("summary").click()
        page.get_by_label("How many").fill("7")
        _create(http, "bea")
        expect(rows).to_have_count(2)
        expect(page.get_by_role("link", name="Customers")).to_contain_text("2")
        expect(rows.nth(1)).to_have_attribute("open", "")
        expect(rows.nth(0)).not_to_have_attribute("open", "")
        expect(page.get_by_label("How many")).to_have_value("7")


def test_payments_can_be_refunded_disputed_and_announced(
    page: Page, server: StandIn, http: httpx.Client
) -> None:
    """Each button does what it says, and the row shows what came of it."""
    _create(http)
    order = http.post("/subscriptions", json={"customerId": "usr_ana", "planCode": "usage_pro"})
    server.control.pay(order.json()["id"])
    _open(page, server, "payments")
    row = page.get_by_role("region", name="Payments").locator("details")
    expect(row).to_contain_text(re.compile("Payment of INV-0001.*29.00.*succeeded", re.DOTALL))

    def press(button: str) -> None:
        row.locator("summary").click()
        row.get_by_role("button", name=button, exact=True).click()

    for button, status in (("Dispute", "disputed"), ("Resolve: won", "succeeded")):
        press(button)
        expect(page.get_by_role("status")).to_contain_text("the events are on their way")
        expect(row).to_contain_text(status)
    row.locator("summary").click()
    row.get_by_label("Amount in cents").fill("9999999")
    row.get_by_role("button", name="Refund").click()
    expect(page.get_by_role("alert")).to_contain_text("must be from 1 to 2900")
    press("Refund")
    expect(row).to_contain_text("refunded")
    row.locator("summary").click()
    row.get_by_label("Event").select_option("payment.failed")
    row.get_by_role("button", name="Send only the event").click()
    expect(page.get_by_role("status")).to_contain_text("nothing else has changed")
    told = [event["event"] for event in server.control.events()][-4:]
    assert told == [
        "payment.disputed", "payment.dispute_resolved", "payment.refunded", "payment.failed",
    ]  # fmt: skip


def test_payment_links_and_unpaid_invoices(page: Page, server: StandIn, http: httpx.Client) -> None:
    """A link is made, declined and paid; an invoice becomes overdue and void."""
    _open(page, server, "payments")
    expect(page.get_by_text("Nothing has been charged yet.")).to_be_visible()
    page.locator("summary", has_text="New payment link").click()
    page.get_by_label("Amount in cents").fill("ten")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("Not done: amount")
    page.locator("summary", has_text="New payment link").click()
    page.get_by_label("Amount in cents").fill("1234")
    page.get_by_role("button", name="Create").click()
    row = page.get_by_role("region", name="Payments").locator("details", has_text="Link:")
    for button, status in (("Pay with a declined card", "failed"), ("Pay", "succeeded")):
        row.locator("summary").click()
        row.get_by_role("button", name=button, exact=True).click()
        expect(row).to_contain_text(status)
    assert len(server.control.events("payment_link.completed")) == 1

    _create(http)
    order = http.post("/subscriptions", json={"customerId": "usr_ana", "planCode": "usage_pro"})
    server.control.pay(order.json()["id"])
    server.control.set_card("usr_ana", charge_failure="card_declined")
    server.control.advance(to=_end_of_period(http, order.json()["id"]))
    _open(page, server, "payments")
    owed = page.get_by_role("region", name="Payments").locator("details", has_text="Invoice INV")
    owed.locator("summary").click()
    owed.get_by_role("button", name="Overdue now").click()
    expect(owed).to_contain_text("overdue")
    owed.locator("summary").click()
    owed.get_by_role("button", name="Void").click()
    expect(owed).to_have_count(0)
    assert len(server.control.events("invoice.voided")) == 1


def _end_of_period(http: httpx.Client, subscription: str) -> datetime:
    shown = http.get(f"/subscriptions/{subscription}").json()["currentPeriod"]["end"]
    return datetime.fromisoformat(shown) + timedelta(hours=1)


def test_an_action_that_there_is_not_is_refused(server: StandIn, http: httpx.Client) -> None:
    """So is one on what there is not."""
    link = http.post("/payments", json={"amount": 1, "currency": "usd", "description": "x"}).json()
    for path in (f"{link['id']}/explode", "pay_none/pay", "inv_none/void", f"{link['id']}/refund"):
        answer = httpx.post(f"{server.public_url}/_standin/ui/payments/{path}")
        assert answer.status_code == 400
        assert "Not done" in answer.text


@pytest.mark.parametrize(
    "view", ["requests", "events", "deliveries", "customers", "payments", "faults"]
)
def test_it_fits_a_phone(
    browser: Browser, server: StandIn, http: httpx.Client, hooks: Receiver, view: str
) -> None:
    """Nothing has to be scrolled sideways to be read."""
    _create(http)
    order = http.post("/subscriptions", json={"customerId": "usr_ana", "planCode": "usage_pro"})
    server.control.pay(order.json()["id"])
    server.control.settle()
    server.control.fault(action={"status": 503, "message": "x" * 200})
    assert hooks.received
    with browser.new_context(viewport={"width": 360, "height": 700}) as context:
        page = context.new_page()
        _open(page, server, view)
        for row in page.locator("details.row > summary").all():
            row.click()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
