"""Pages say what the API does, and keep what was typed."""

import re
from typing import Any

import pytest

from billing import wiring
from billing.accounts.signing_in import SigningIn
from billing.errors import TooManyRequests
from functions.pages import app as pages_function
from standin.testing import StandIn
from tests.integration.functions.calling import ask, call, event, mailed
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    PASSWORD,
    address,
    environment,
)
from tests.integration.functions.test_debts import KEY, _shop, box, remote  # noqa: F401 - fixtures
from tests.integration.functions.test_pages import (  # noqa: F401 - fixtures
    Person,
    joined,
    person,
    user_of,
    visitor,
)
from tests.integration.functions.visiting import Shown, Visitor

pytestmark = pytest.mark.handlers


class TestWhatWasTyped:
    @pytest.mark.parametrize("typed", ["100,50", "1,00", "12,3456", "$"])
    def test_a_comma_before_cents_is_no_hundredfold_limit(
        self,
        person: Person,  # noqa: F811
        typed: str,
    ) -> None:
        before = person.board["spending"]
        refused = person.browser.post("/app/limit", {"amount": typed})
        assert refused.status == 422
        assert refused.form("/app/limit").values["amount"] == typed
        assert person.board["spending"] == before

    def test_a_wrong_quantity_stays_in_its_field(self, visitor: Visitor) -> None:  # noqa: F811
        shown = visitor.get("/?q_storage=0,5&q_api_calls=1,200")
        assert "Type a quantity such as 1200 or 0.5." in shown.text
        values = {name: value for form in shown.forms for name, value in form.values.items()}
        assert values["q_storage"] == "0,5"

    def test_too_many_attempts_to_sign_in_lose_nothing(
        self,
        person: Person,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        del person.browser.cookies["__Host-session"]
        asked = person.browser.post("/app/account/name", {"name": "Ana"})
        values = asked.form("/app/login").values | {"email": person._email, "password": PASSWORD}

        def refuse(*_: Any, **__: Any) -> None:
            raise TooManyRequests(retry_after=120)

        monkeypatch.setattr(SigningIn, "sign_in", refuse)
        refused = person.browser.post("/app/login", values)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "120"
        assert "in 2 minutes" in refused.text
        kept = refused.form("/app/login").values
        assert kept["typed"] == values["typed"]
        assert kept["email"] == person._email

    def test_a_form_that_is_sent_again_may_end_at_commet(self, person: Person) -> None:  # noqa: F811
        """Else browsers stop at the answer, which sends them on to Commet."""
        del person.browser.cookies["__Host-session"]
        asked = person.browser.post("/app/checkout", {"plan_code": "usage_max"})
        values = asked.form("/app/login").values | {"email": person._email, "password": PASSWORD}
        again = person.browser.post("/app/login", values)
        assert "https://pay.commet.co" in again.headers["content-security-policy"]

    @pytest.mark.parametrize(
        ("action", "behind", "about"),
        [
            ("/app/account/name", "/app/account", "Your name: Ana"),
            ("/app/account/delete", "/app/account/delete", "The deletion of your account"),
            ("/app/limit", "/app", "Your spend limit"),
            ("/app/checkout", "/", "The plan that you chose"),
            ("/app/billing/keep", "/app/billing", "Keeping your plan"),
            ("/app/billing/portal", "/app/billing", "Your form"),
        ],
    )
    def test_the_way_back_from_a_form_leads_to_its_page(
        self,
        person: Person,  # noqa: F811
        action: str,
        behind: str,
        about: str,
    ) -> None:
        """And the page names what would be sent."""
        del person.browser.cookies["__Host-session"]
        values = person.browser.post(action, {"name": "Ana"}).form("/app/login").values
        values |= {"email": person._email, "password": PASSWORD}
        again = person.browser.post("/app/login", values)
        assert again.links[-1] == behind
        assert about in again.text
        assert person.browser.get(behind).status == 200

    def test_the_chosen_interval_is_kept_through_signing_up(
        self,
        visitor: Visitor,  # noqa: F811
    ) -> None:
        prices = visitor.get("/?interval=yearly")
        link = next(each for each in prices.links if "signup?plan=usage_pro" in each)
        email = address()
        form = visitor.get(link).form("/app/signup")
        visitor.post("/app/signup", form.values | {"email": email, "password": PASSWORD})
        token = mailed(user_of(email), "verify_email")
        checkout = visitor.follow(visitor.post("/app/verify", {"token": token}))
        assert checkout.form("/app/checkout").values["billing_interval"] == "yearly"

    def test_commet_leads_back_to_the_address_of_the_form(
        self,
        person: Person,  # noqa: F811
        remote: StandIn,  # noqa: F811
    ) -> None:
        """Only there the browser has the session."""
        assert person.browser.post("/app/billing/portal").status == 303
        (asked,) = remote.control.requests(path="/portal/sessions")[-1:]
        assert asked["body"]["returnUrl"] == f"{person.browser.origin}/app/billing"


class TestTheChosenPlan:
    def test_its_price_is_on_the_form_to_sign_up(self, visitor: Visitor) -> None:  # noqa: F811
        said = visitor.get("/app/signup?plan=usage_pro").text
        assert "You chose Usage Pro , $29 a month." in said
        said = visitor.get("/app/signup?plan=usage_pro&interval=yearly").text
        assert "You chose Usage Pro , $290 a year." in said
        assert "You chose Free . No card" in visitor.get("/app/signup?plan=free").text
        assert "You chose" not in visitor.get("/app/signup?plan=nothing").text

    def test_no_other_site_and_no_other_host_can_set_it(
        self,
        visitor: Visitor,  # noqa: F811
    ) -> None:
        (cookie,) = [each for each in joined(visitor, address()).cookies if "usage_pro" in each]
        assert cookie.startswith("__Host-plan=")
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie


class TestAnUnknownAddress:
    BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

    @pytest.mark.parametrize("path", ["/pricing", "/users", "/app/nothing", "/docs/a/b"])
    def test_is_a_page_to_browsers(self, visitor: Visitor, path: str) -> None:  # noqa: F811
        shown = visitor.get(path, accept=self.BROWSER)
        assert shown.status == 404
        assert shown.headers["content-type"] == "text/html; charset=utf-8"
        assert "There is no page at this address" in shown.text
        assert "/" in shown.links

    @pytest.mark.parametrize("accept", ["", "*/*", "application/json", "image/webp,*/*"])
    def test_is_a_problem_document_to_others(self, accept: str) -> None:
        headers = {"accept": accept} if accept else {}
        answer = ask(pages_function, event("GET", "/no/such/thing", None, headers, []))
        assert (answer.status, answer.code) == (404, "not_found")
        assert answer.headers["strict-transport-security"]


def previewed(person: Person) -> Shown:  # noqa: F811
    """The page of a change to `usage_max`, which nobody has confirmed."""
    asked = person.browser.post("/app/checkout", {"plan_code": "usage_max"})
    return person.browser.follow(asked)


class TestAChangeOfPlan:
    def test_to_load_its_page_again_asks_for_nothing(
        self,
        person: Person,  # noqa: F811
        remote: StandIn,  # noqa: F811
    ) -> None:
        """The page has an address. Each time it has the same offer, and the same numbers."""
        person.use(130)
        asked = person.browser.post("/app/checkout", {"plan_code": "usage_max"})
        first = person.browser.follow(asked)
        assert first.status == 200
        assert "$86.87" in first.text
        before = remote.control.requests(method="POST")
        again = [person.browser.get(asked.location) for _ in range(2)]
        assert [each.html for each in again] == [first.html] * 2
        assert remote.control.requests(method="POST") == before
        confirmed = person.browser.post("/app/checkout", first.form("/app/checkout").values)
        assert confirmed.location == "/app/billing?done=plan_changed"

    def test_a_change_of_another_interval(self, person: Person) -> None:  # noqa: F811
        body = {"plan_code": "usage_max", "billing_interval": "yearly"}
        shown = person.browser.follow(person.browser.post("/app/checkout", body))
        assert "$990.00" in shown.text
        assert shown.form("/app/checkout").values["billing_interval"] == "yearly"

    def test_a_change_that_waits_for_the_end_of_the_period(self, person: Person) -> None:  # noqa: F811
        asked = person.browser.post("/app/checkout", {"plan_code": "free"})
        shown = [person.browser.get(asked.location) for _ in range(2)]
        assert shown[0].html == shown[1].html
        assert "at the end of the period" in shown[0].text

    def test_after_it_was_confirmed_its_page_offers_to_ask_again(
        self,
        person: Person,  # noqa: F811
    ) -> None:
        """The way back in the browser leads to this page."""
        asked = person.browser.post("/app/checkout", {"plan_code": "usage_max"})
        shown = person.browser.follow(asked)
        assert person.browser.post("/app/checkout", shown.form("/app/checkout").values).status
        late = person.browser.get(asked.location)
        assert late.status == 409
        assert "Look at the change again" in late.text
        assert "confirmation" not in late.form("/app/checkout").values

    @pytest.mark.parametrize("confirmation", ["", "chg_0123456789abcdef", "nonsense", "%00"])
    def test_a_confirmation_that_is_nobodys(
        self,
        person: Person,  # noqa: F811
        confirmation: str,
    ) -> None:
        path = f"/app/checkout/change?plan=usage_max&confirmation={confirmation}"
        assert person.browser.get(path).status == 409

    def test_another_users_change(self, person: Person, visitor: Visitor) -> None:  # noqa: F811
        asked = person.browser.post("/app/checkout", {"plan_code": "usage_max"})
        joined(visitor, address())
        assert visitor.get(asked.location).status == 409


def test_a_page_is_called_what_its_heading_says(person: Person) -> None:  # noqa: F811
    stranger = Visitor()
    pages = [stranger.get(path) for path in ("/", "/app/signup?plan=usage_pro", "/app/login")]
    pages += [
        person.browser.get(path)
        for path in (
            "/app", "/app/usage", "/app/usage/entries", "/app/billing", "/app/account",
            "/app/billing/cancel", "/app/account/delete", "/app/thanks?plan=usage_max",
            "/app/checkout?plan=usage_max", "/app/nothing",
        )
    ]  # fmt: skip
    pages.append(previewed(person))
    pages.append(stranger.follow(joined(stranger, address())))
    assert pages
    for shown in pages:
        heading = re.search(r"<h1[^>]*>(.*?)</h1>", shown.html)
        assert heading is not None
        assert f"<title>{heading[1]} ·" in shown.html


def test_the_chart_says_what_its_colours_mean(
    person: Person,  # noqa: F811
    remote: StandIn,  # noqa: F811
) -> None:
    person.use(9, key="first")
    text = person.browser.get("/app").text
    assert "likely, beyond the plan" not in text
    for day in range(8):
        person.use(9, key=f"day-{day}")
        remote.control.advance(days=1)
    person.sign_in()
    person.browser.cookies["__Host-session"] = person._token
    text = person.browser.get("/app").text
    assert "used likely, within the plan likely, beyond the plan Show the days" in text


class TestTheEndOfAPlan:
    def test_a_free_plan_ends_at_once_and_the_page_says_so(
        self,
        visitor: Visitor,  # noqa: F811
    ) -> None:
        email = address()
        joined(visitor, email)
        visitor.post("/app/verify", {"token": mailed(user_of(email), "verify_email")})
        assert visitor.post("/app/checkout", {"plan_code": "free"}).status == 303
        token = visitor.cookies["__Host-session"]
        assert call("GET", "/dashboard", token=token).json["access"] is True
        asked = visitor.get("/app/billing/cancel")
        assert "ends at once" in asked.text
        assert "You keep everything" not in asked.text
        canceled = visitor.post("/app/billing/cancel")
        assert call("GET", "/dashboard", token=token).json["access"] is False
        assert "You keep everything" not in visitor.follow(canceled).text

    def test_a_paid_plan_ends_with_its_period(self, person: Person) -> None:  # noqa: F811
        assert "You keep everything until then" in person.browser.get("/app/billing/cancel").text

    def test_a_plan_that_waits_for_payment_is_not_called_canceled(
        self,
        visitor: Visitor,  # noqa: F811
    ) -> None:
        email = address()
        joined(visitor, email)
        visitor.post("/app/verify", {"token": mailed(user_of(email), "verify_email")})
        assert visitor.post("/app/checkout", {"plan_code": "usage_pro"}).status == 303
        assert visitor.get("/app/billing/cancel").status == 303
        assert visitor.post("/app/billing/cancel").location == "/app/billing"
        assert "waits for your payment" in visitor.get("/app/billing").text


class TestTheNextInvoice:
    def test_it_has_the_price_of_a_plan_that_goes_on(self, person: Person) -> None:  # noqa: F811
        assert "Total before tax $29.00" in person.browser.get("/app").text

    def test_a_plan_that_ends_is_not_on_it(self, person: Person) -> None:  # noqa: F811
        person.use(150)
        assert person.browser.post("/app/billing/cancel").status == 303
        text = person.browser.get("/app").text
        assert "Next invoice" in text
        assert "$29.00" not in text

    def test_a_plan_that_is_paid_for_longer_is_not_on_it(self, person: Person) -> None:  # noqa: F811
        """A yearly plan has monthly invoices for usage. The year is on another one."""
        wiring.database().execute(
            "update subscriptions set billing_interval = 'yearly',"
            " period_end = period_end + interval '10 months'"
        )
        text = person.browser.get("/app").text
        assert "Next invoice" in text
        assert "$290.00" not in text

    def test_a_price_that_is_not_known_makes_the_total_a_least(
        self,
        person: Person,  # noqa: F811
    ) -> None:
        person.use(150)
        wiring.database().execute("update entitlements set unit_price = null")
        text = person.browser.get("/app").text
        assert "not known yet" in text
        assert "Total before tax at least $29.00" in text


def test_a_limit_that_the_product_set_is_not_said_to_be_the_users_to_raise(
    person: Person,  # noqa: F811
) -> None:
    wiring.database().execute("update users set spend_limit = 500")
    assert person.board["spending"]["set_by"] == "product"
    assert "until you raise it" not in person.browser.get("/app").text
    refused = person.browser.post("/app/limit", {"amount": "900"})
    assert refused.status == 422
    assert "above the limit that is set for you" in refused.text
    assert person.browser.post("/app/limit", {"amount": "40"}).status == 303
    assert "until you raise it" in person.browser.get("/app").text


def test_what_was_used_before_is_said_where_it_counts(visitor: Visitor) -> None:  # noqa: F811
    """Else "0 of 10 GB, 3 left" is no sum."""
    email = address()
    joined(visitor, email)
    visitor.post("/app/verify", {"token": mailed(user_of(email), "verify_email")})
    assert visitor.post("/app/checkout", {"plan_code": "free"}).status == 303
    used = {"feature": "storage", "quantity": 1, "idempotency_key": "k1", "user_id": user_of(email)}
    assert call("POST", "/usage", used, token=KEY).json["accepted"] == 1
    assert visitor.post("/app/billing/cancel").status == 303
    assert visitor.post("/app/checkout", {"plan_code": "free"}).status == 303
    board = call("GET", "/dashboard", token=visitor.cookies["__Host-session"]).json
    (feature,) = [each for each in board["usage"] if each["feature"] == "storage"]
    assert (feature["used"], feature["used_before"]) == ("0", "1")
    assert "1 were used before" in visitor.get("/app").text
