"""The reference page of the running stack, in a real browser, under its own policy."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from local.stack import LocalStack
from tests.axe import WCAG, violations
from tests.standin.pages.conftest import browser  # noqa: F401 - fixture

# What axe finds in Swagger UI itself, of which nothing is ours.
SWAGGER_UIS_OWN = {"color-contrast", "nested-interactive", "target-size"}

_PATIENCE = 60_000  # in milliseconds: the page is large, and the machine may be busy


def elsewhere(url: str) -> list[str]:
    """The address of a request that leaves this machine."""
    return [] if url.startswith(("http://127.0.0.1:", "data:")) else [url]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:  # noqa: F811
    """A page that fails the test on any error, a breach of the policy included."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(_PATIENCE)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    opened.on("request", lambda asked: errors.extend(elsewhere(asked.url)))
    yield opened
    context.close()
    assert errors == []


def test_it_shows_the_routes(page: Page, stack: LocalStack) -> None:
    """With what a request needs, and what it may answer."""
    page.goto(f"{stack.api}/docs")
    expect(page.locator(".opblock")).not_to_have_count(0, timeout=_PATIENCE)
    page.locator("#operations-Usage-reportUsage .opblock-summary-control").click()
    shown = page.locator("#operations-Usage-reportUsage")
    expect(shown).to_contain_text("Report one usage event", timeout=_PATIENCE)
    expect(shown).to_contain_text("spend_limit_reached", timeout=_PATIENCE)


def test_a_request_can_be_sent_from_it(page: Page, stack: LocalStack) -> None:
    page.goto(f"{stack.api}/docs")
    health = page.locator("[id$='getHealth']")
    health.locator(".opblock-summary-control").click()
    health.get_by_role("button", name="Try it out").click()
    health.get_by_role("button", name="Execute").click()
    expect(health.locator(".live-responses-table")).to_contain_text('"ok"', timeout=_PATIENCE)


def test_the_type_of_a_problem_leads_to_it(page: Page, stack: LocalStack) -> None:
    page.goto(f"{stack.api}/docs")
    page.get_by_role("link", name="Problems").click()
    expect(page).to_have_title("Problems", timeout=_PATIENCE)
    page.goto(f"{stack.api}/docs/problems#limit_reached")
    expect(page.locator("section:target")).to_contain_text(
        "included quantity is used up", timeout=_PATIENCE
    )


@pytest.mark.parametrize("path", ["/docs", "/docs/problems"])
def test_it_is_accessible(path: str, browser: Browser, stack: LocalStack) -> None:  # noqa: F811
    """By axe's rules for WCAG 2.2 A and AA."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(_PATIENCE)
    page.goto(f"{stack.api}{path}")
    if path == "/docs":
        expect(page.locator(".opblock")).not_to_have_count(0, timeout=_PATIENCE)
    broken = violations(page, WCAG)
    context.close()
    if path == "/docs":
        broken = {name: where for name, where in broken.items() if name not in SWAGGER_UIS_OWN}
    assert broken == {}
