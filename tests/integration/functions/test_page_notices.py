"""One notice on each page, the worst one, and what billing says of the next invoice."""

import re

import pytest

from billing import wiring
from standin.testing import StandIn
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    address,
    environment,
)
from tests.integration.functions.test_debts import _shop, box, remote  # noqa: F401 - fixtures
from tests.integration.functions.test_pages import (  # noqa: F401 - fixtures
    Person,
    joined,
    person,
    visitor,
)
from tests.integration.functions.visiting import Shown, Visitor

pytestmark = pytest.mark.handlers

FAILED = "Your last payment of $34.51 failed."


def banners(shown: Shown) -> list[str]:
    """The texts of the banners."""
    found = re.findall(r'<div class="banner[^>]*>(.*?)</p>', shown.html, re.DOTALL)
    return [" ".join(re.sub("<[^>]+>", " ", each).split()) for each in found]


def pass_days(person: Person, remote: StandIn) -> None:  # noqa: F811
    """Eight days, each with 9 GB. A session ends within so many days."""
    for day in range(8):
        person.use(9, key=f"day-{day}")
        remote.control.advance(days=1)
    enter(person)


def enter(person: Person) -> None:  # noqa: F811
    person.sign_in()
    person.browser.cookies["__Host-session"] = person._token


@pytest.fixture
def overdue(person: Person, remote: StandIn) -> Person:  # noqa: F811
    """Somebody whose renewal failed a day ago or earlier, however long this month is."""
    remote.control.set_card(person.id, charge_failure="card_declined")
    remote.control.advance(days=33)
    person.hear()
    enter(person)
    return person


class TestOneNotice:
    def test_a_failed_payment_is_on_every_page(self, overdue: Person) -> None:
        """With a form that leads to Commet, which the page has to permit."""
        for path in (
            "/", "/app", "/app/usage", "/app/usage/entries", "/app/billing", "/app/account",
            "/app/account/delete",
        ):  # fmt: skip
            shown = overdue.browser.get(path)
            assert [FAILED in each for each in banners(shown)] == [True], path
            assert shown.form("/app/billing/recovery").method == "post"
            assert "https://pay.commet.co" in shown.headers["content-security-policy"]
        assert banners(Visitor().get("/")) == []

    def test_what_was_done_is_a_badge_beside_a_notice(self, person: Person) -> None:  # noqa: F811
        canceled = person.browser.follow(person.browser.post("/app/billing/cancel"))
        (said,) = banners(canceled)
        assert "Usage Pro ends on" in said
        assert '<span class="badge good">done</span>' in canceled.html
        assert "Keep Usage Pro" in canceled.text
        kept = person.browser.follow(person.browser.post("/app/billing/keep"))
        assert banners(kept) == ["Kept. Your plan goes on."]
        assert '<span class="badge good">done</span>' not in kept.html

    def test_an_address_that_is_not_confirmed(self, visitor: Visitor) -> None:  # noqa: F811
        joined(visitor, address())
        (said,) = banners(visitor.get("/app/account?done=saved"))
        assert "Your address is not confirmed." in said

    def test_billing_says_that_commet_does_not_answer(
        self,
        person: Person,  # noqa: F811
        remote: StandIn,  # noqa: F811
    ) -> None:
        assert person.browser.post("/app/billing/portal").status == 303
        wiring.database().execute(
            "update users set answered_at = answered_at - interval '1 minute', asked_at = null"
        )
        remote.control.fault(action={"status": 503}, times=None)
        shown = person.browser.get("/app/billing")
        (said,) = banners(shown)
        assert "We could not reach billing just now." in said
        assert "/app/billing" in shown.links

    def test_billing_says_when_usage_will_run_past_what_is_included(
        self,
        person: Person,  # noqa: F811
        remote: StandIn,  # noqa: F811
    ) -> None:
        pass_days(person, remote)
        for path in ("/app", "/app/billing"):
            (said,) = banners(person.browser.get(path))
            assert "Storage will run past what is included around" in said
            assert "From then on each GB costs $0.10." in said


class TestTheBeginning:
    def test_what_is_included_may_come_a_moment_after_the_plan(
        self,
        person: Person,  # noqa: F811
    ) -> None:
        """The page leads on, instead of saying that nothing is metered."""
        wiring.database().execute("delete from entitlements where type = 'usage'")
        just_paid = person.browser.get("/app?done=welcome")
        assert "What your plan includes is on its way." in just_paid.text
        assert "Look again" in just_paid.text
        assert "Nothing is metered for you" in person.browser.get("/app").text


class TestTheEnd:
    def test_of_a_plan_that_is_past_due_ends_the_collection(self, overdue: Person) -> None:
        """Commet voids the invoice then. What it has for usage is a debt."""
        shown = overdue.browser.get("/app/billing/cancel")
        assert "It ends at once" in shown.text
        assert "The payment that failed is not collected any more." in shown.text
        assert [FAILED in each for each in banners(shown)] == [True]
        assert overdue.browser.post("/app/billing/cancel").status == 303
        assert "invoice.voided" in overdue.hear()

    def test_of_another_plan_says_nothing_of_it(self, person: Person) -> None:  # noqa: F811
        assert "collected" not in person.browser.get("/app/billing/cancel").text


class TestTheNextInvoiceInBilling:
    def test_is_that_of_the_overview(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        """Before it is told how usage goes on, the sum so far; then the range."""
        person.use(150)
        text = person.browser.get("/app/billing").text
        assert "Price $29.00 a month" in text
        assert re.search(r"Next invoice, before tax \d+ \w+( \d+)? \$34\.00 so far", text)
        pass_days(person, remote)
        overview = person.browser.get("/app").text
        found = re.search(r"Total before tax \$[\d.]+ (\$\d+ \N{EN DASH} \$\d+)", overview)
        assert found, overview
        assert f"{found[1]} " in person.browser.get("/app/billing").text

    def test_a_plan_that_ends_has_no_price_on_it(self, person: Person) -> None:  # noqa: F811
        assert person.browser.post("/app/billing/cancel").status == 303
        text = person.browser.get("/app/billing").text
        assert "Price $29.00 a month" in text
        assert "so far $0.00" in text
        assert "$29.00 so far" not in text

    def test_a_trial_says_what_it_will_cost(self, person: Person) -> None:  # noqa: F811
        wiring.database().execute(
            "update subscriptions set status = 'trialing', trial_ends_at = period_end"
        )
        shown = person.browser.get("/app/billing")
        (said,) = banners(shown)
        assert re.match(r"Trial: \d+ days left\. On .* Usage Pro begins to cost \$29\.00 a m", said)
        assert "/app/billing/cancel" in shown.links
        assert re.search(r"Next invoice, before tax \d+ \w+( \d{4})? \$29\.00 Usage", shown.text)
