"""The pages of the running stack in a real browser: one person's way, from prices to signing out.

`make pages-judge` looks closer: each state of each page, phones, keyboards, no script.
"""

from playwright.sync_api import Browser, Page

from local.stack import LocalStack
from standin.testing import Control
from tests.axe import violations
from tests.standin.pages.conftest import browser  # noqa: F401 - fixture
from tests.visitor import PATIENCE, Visitor, errors_of


def test_a_person_goes_all_the_way(
    browser: Browser,  # noqa: F811
    stack: LocalStack,
    commet: Control,
) -> None:
    """No page on the way breaks a rule of axe or the pages' own policy, or raises an error."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(PATIENCE)
    errors, broken = errors_of(context), {}

    def look(page: Page) -> None:
        if found := violations(page):
            broken[page.url] = found

    page, email = context.new_page(), "reader@example.com"
    # Other tests use the stack, so its clock is not moved.
    Visitor(page, stack, commet, email, skips_time=False, look=look).go_all_the_way()
    context.close()
    assert (errors, broken) == ([], {})
