"""The pages, as a browser without scripts sees them, from the prices to the last invoice."""

import json
import re
from typing import Any
from urllib.parse import quote

import pytest

from billing import wiring
from billing.pages import formats, site
from standin.testing import Receiver, StandIn
from tests.integration.functions.calling import ORIGIN, call, mailed
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    PASSWORD,
    address,
    environment,
)
from tests.integration.functions.test_debts import (
    Person as Payer,
)
from tests.integration.functions.test_debts import (  # noqa: F401 - fixtures
    _shop,
    box,
    remote,
)
from tests.integration.functions.visiting import Shown, Visitor
from tests.unit.cloudformation import ROOT

pytestmark = pytest.mark.handlers

NASTY = """<script>alert("x")</script>'"&<b>"""


class Person(Payer):
    """Somebody who pays for `usage_pro`, with a browser that is signed in."""

    def __init__(self, remote: StandIn, box: Receiver) -> None:  # noqa: F811
        super().__init__(remote, box)
        self.browser = Visitor()
        self.browser.cookies["__Host-session"] = self._token

    @property
    def board(self) -> dict[str, Any]:
        board: dict[str, Any] = call("GET", "/dashboard", token=self._token).json
        return board


@pytest.fixture
def person(remote: StandIn, box: Receiver) -> Person:  # noqa: F811
    return Person(remote, box)


@pytest.fixture
def visitor() -> Visitor:
    return Visitor()


def joined(visitor: Visitor, email: str, **fields: str) -> Shown:
    """Signs up on the page; the answer."""
    form = visitor.get("/app/signup?plan=usage_pro").form("/app/signup")
    return visitor.post(
        "/app/signup", form.values | {"email": email, "password": PASSWORD} | fields
    )


def plain(text: str) -> str:
    """The text as `Shown.text` has it."""
    return " ".join(text.split())


def user_of(email: str) -> str:
    return str(wiring.database().value("select id from users where email = %s", [email]))


class TestStory:
    def test_from_the_prices_to_the_portal(
        self,
        visitor: Visitor,
        remote: StandIn,  # noqa: F811
    ) -> None:
        """Choose, sign up, confirm, pay, wait, look, cancel, keep."""
        prices = visitor.get("/")
        assert prices.status == 200
        assert "/app/signup?plan=usage_pro" in prices.links
        email = address()
        confirm = visitor.follow(joined(visitor, email))
        assert email in confirm.text
        token = mailed(user_of(email), "verify_email")
        behind = visitor.get(f"/verify-email?token={token}")
        verified = visitor.post("/app/verify", behind.form("/app/verify").values)
        assert verified.location == "/app/checkout?plan=usage_pro&done=verified"
        checkout = visitor.follow(verified)
        left = visitor.post("/app/checkout", checkout.form("/app/checkout").values)
        assert left.location.startswith(remote.public_url)
        waits = visitor.get("/app")
        assert "waits for your payment" in waits.text
        onward = visitor.get(next(each for each in waits.links if "/app/checkout?" in each))
        left_again = visitor.post("/app/checkout", onward.form("/app/checkout").values)
        assert left_again.location == left.location
        thanks = visitor.get("/app/thanks?plan=usage_pro")
        assert "wait for your payment" in thanks.text
        looked = visitor.get("/app/thanks/look?plan=usage_pro")
        assert json.loads(looked.html) == {"access": False}
        remote.control.pay(wiring.database().value("select id from subscriptions"))
        # Commet is asked about a user every ten seconds at most. Here these are over.
        wiring.database().execute("update subscriptions set checked_at = null")
        there = visitor.get("/app/thanks?plan=usage_pro")
        assert there.location == "/app?done=welcome"
        overview = visitor.follow(there)
        assert "Usage Pro" in overview.text
        canceled = visitor.post("/app/billing/cancel")
        assert canceled.location == "/app/billing?done=canceled"
        billing = visitor.follow(canceled)
        assert "Usage Pro ends on" in billing.text
        kept = visitor.follow(visitor.post("/app/billing/keep"))
        assert "ends on" not in kept.text
        portal = visitor.post("/app/billing/portal")
        assert portal.location.startswith(remote.public_url)
        out = visitor.post("/app/logout")
        assert out.location == "/?done=signed_out"
        assert visitor.get("/app").location == "/app/login?next=%2Fapp"


class TestTheWayIn:
    def test_the_page_that_was_wanted_comes_after_signing_in(self, person: Person) -> None:
        stranger = Visitor()
        asked = stranger.get("/app/usage?feature=storage&from=2026-01-01")
        form = stranger.follow(asked).form("/app/login")
        form.values |= {"email": person._email, "password": PASSWORD}
        back = stranger.post("/app/login", form.values)
        assert back.location == "/app/usage?feature=storage&from=2026-01-01"

    @pytest.mark.parametrize(
        "next", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)"]
    )
    def test_nobody_is_sent_to_another_site(self, person: Person, next: str) -> None:  # noqa: A002
        values = {"email": person._email, "password": PASSWORD, "next": next}
        assert Visitor().post("/app/login", values).location == "/app"

    def test_a_wrong_password_keeps_the_address_and_nothing_else(self, person: Person) -> None:
        values = {"email": person._email, "password": "wrong password"}
        refused = Visitor().post("/app/login", values)
        assert refused.status == 401
        assert "E-mail or password is wrong." in refused.text
        assert refused.form("/app/login").values["email"] == person._email
        assert "wrong password" not in refused.html

    def test_a_password_that_is_too_common_is_said_at_its_field(self, visitor: Visitor) -> None:
        refused = joined(visitor, address(), password="password")
        assert refused.status == 422
        assert 'aria-invalid="true"' in refused.html
        assert refused.form("/app/signup").values["plan"] == "usage_pro"

    def test_a_new_password(self, person: Person) -> None:
        """By the link of a mail. Opening it changes nothing."""
        stranger = Visitor()
        asked = stranger.post("/app/forgot", {"email": person._email})
        unknown = stranger.post("/app/forgot", {"email": address()})
        assert asked.html == unknown.html
        token = mailed(person.id, "reset_password")
        for _ in range(2):
            form = stranger.get(f"/reset-password?token={token}").form("/app/reset")
        new = {"password": "another long walk home"}
        done = stranger.post("/app/reset", form.values | new)
        assert done.location == "/app/login?done=password_set"
        again = stranger.post("/app/reset", form.values | new)
        assert (again.status, "This link has expired" in again.text) == (409, True)
        values = {"email": person._email} | new
        assert stranger.post("/app/login", values).location == "/app"
        assert person.browser.get("/app").location.startswith("/app/login")

    def test_a_form_that_met_an_ended_session_is_kept_and_sent_later(self, person: Person) -> None:
        cookie = person.browser.cookies.pop("__Host-session")
        asked = person.browser.post("/app/account/name", {"name": "Ana & Bo"})
        assert asked.status == 401
        values = asked.form("/app/login").values
        again = person.browser.post(
            "/app/login", values | {"email": person._email, "password": PASSWORD}
        )
        assert again.status == 200
        assert person.browser.cookies["__Host-session"] != cookie
        form = again.form("/app/account/name")
        assert form.values == {"name": "Ana & Bo"}
        saved = person.browser.post(form.action, form.values)
        assert saved.location == "/app/account?done=saved"
        assert person.browser.follow(saved).form("/app/account/name").values["name"] == "Ana & Bo"

    def test_mails_about_thresholds_are_switched_off_and_on(self, person: Person) -> None:
        for value, then in (("off", "on"), ("on", "off")):
            page = person.browser.get("/app/account")
            assert f'name="thresholds" value="{value}"' in page.html
            saved = person.browser.post("/app/account/mails", {"thresholds": value})
            assert saved.location == "/app/account?done=saved"
            page = person.browser.follow(saved)
            assert f'name="thresholds" value="{then}"' in page.html

    def test_a_typed_password_is_not_kept(self, person: Person) -> None:
        del person.browser.cookies["__Host-session"]
        values = {"current_password": "my secret", "password": "my other secret"}
        asked = person.browser.post("/app/account/password", values)
        assert asked.status == 401
        assert "secret" not in asked.html


class TestOtherSites:
    FORMS = (
        "/app/login", "/app/signup", "/app/logout", "/app/checkout", "/app/limit",
        "/app/alerts", "/app/alerts/remove",
        "/app/billing/cancel", "/app/account/email", "/app/account/delete", "/app/reset",
    )  # fmt: skip

    @pytest.mark.parametrize(
        "origin", ["", "null", "https://evil.example", f"{ORIGIN}.evil.example"]
    )
    def test_a_form_of_another_site_is_refused(self, person: Person, origin: str) -> None:
        person.browser.origin = origin
        assert self.FORMS
        for path in self.FORMS:
            refused = person.browser.post(path, {"email": person._email, "password": PASSWORD})
            assert refused.status == 403, path
            assert "came from another site" in refused.text
        assert person.board["subscription"]["cancel_at_period_end"] is False

    def test_a_form_at_the_address_of_the_api_is_taken(self, person: Person) -> None:
        """API Gateway says at which address a request came. Nobody has to allow that one."""
        person.browser.origin = "https://d"
        assert person.browser.post("/app/account/name", {"name": "Ana"}).status == 303
        started = person.browser.post("/app/billing/portal")
        assert started.status == 303, started.text

    def test_a_request_that_the_browser_calls_foreign_is_refused(self, person: Person) -> None:
        refused = person.browser.post("/app/logout", sec_fetch_site="cross-site")
        assert refused.status == 403
        assert person.browser.get("/app").status == 200

    def test_every_page_has_the_policy_of_the_pages(self, person: Person) -> None:
        paths = ["/", "/app", "/app/usage", "/app/billing", "/app/account", "/app/nothing"]
        for path in paths:
            shown = person.browser.get(path)
            policy = shown.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert shown.headers["referrer-policy"] == "same-origin"
            assert shown.headers["cache-control"] == "no-store"
            assert not re.search(r"<[^>]+ (style|on\w+)=", shown.html), path
            assert "<style" not in shown.html

    @pytest.mark.parametrize(
        ("path", "canonical"),
        [
            ("/", "/"),
            ("/?interval=yearly", "/"),
            ("/?q_storage=140", "/"),
            ("/app/signup?plan=usage_pro", "/app/signup"),
        ],
    )
    def test_search_engines_list_these_pages(self, path: str, canonical: str) -> None:
        """Whatever interval, estimate or plan is in the address, it is the same page."""
        html = Visitor().get(path, origin="https://evil.example").html
        assert "noindex" not in html
        assert f'<link rel="canonical" href="https://d{canonical}">' in html
        assert re.search(r'<meta name="description" content=".{20,}">', html)

    @pytest.mark.parametrize(
        "path", ["/app/login", "/app/forgot", "/reset-password?token=x", "/verify-email", "/no"]
    )
    def test_and_no_others(self, path: str) -> None:
        html = Visitor().get(path, accept="text/html").html
        assert '<meta name="robots" content="noindex">' in html
        assert "canonical" not in html

    @pytest.mark.parametrize("path", ["/app", "/app/account", "/app/usage"])
    def test_nor_pages_for_members(self, person: Person, path: str) -> None:
        assert '<meta name="robots" content="noindex">' in person.browser.get(path).html

    def test_they_may_read_what_says_that_it_is_not_to_be_listed(self) -> None:
        """The address of a page that they may not read can be listed, but not a link in a mail."""
        lines = Visitor().get("/robots.txt").html.splitlines()
        assert lines[0] == "User-agent: *"
        allowed = [line.removeprefix("Allow: ") for line in lines if line.startswith("Allow: ")]
        assert allowed == ["/$", "/?", "/assets/", "/app/login", "/app/signup"]
        assert lines[-1] == "Disallow: /"

    def test_only_where_a_form_leads_there_commet_is_named(self, person: Person) -> None:
        hosted = "https://pay.commet.co"
        assert hosted not in person.browser.get("/app/account").headers["content-security-policy"]
        assert hosted in person.browser.get("/app/billing").headers["content-security-policy"]


class TestWhoMayLook:
    # Everything else is for members. A page of a member that is missing here is open to everybody.
    FOR_EVERYBODY = (
        "GET /", "GET /app/login", "POST /app/login", "POST /app/logout", "GET /app/signup",
        "POST /app/signup", "GET /verify-email", "POST /app/verify", "GET /app/forgot",
        "POST /app/forgot", "GET /reset-password", "POST /app/reset", "GET /sign-in",
        "POST /app/login/link", "GET /assets/<name>", "GET /robots.txt",
    )  # fmt: skip

    def test_every_other_page_is_for_members(self) -> None:
        public = {
            f"{route.method} {route.path}"
            for route in site.app._static_routes + site.app._dynamic_routes
            if not getattr(route.func, "members", False)
        }
        assert public == set(self.FOR_EVERYBODY)

    def test_a_stranger_is_asked_to_sign_in_and_nothing_is_done(self) -> None:
        asked = Visitor().get("/app/billing/invoices/inv_1")
        assert asked.location == "/app/login?next=%2Fapp%2Fbilling%2Finvoices%2Finv_1"
        assert Visitor().post("/app/billing/cancel").status == 401

    def test_what_is_no_plan_is_not_written_into_a_header(self, visitor: Visitor) -> None:
        plan = "x; Domain=evil.example\r\nSet-Cookie: session=mine"
        values = {"email": address(), "password": PASSWORD, "plan": plan}
        up = visitor.post("/app/signup", values)
        assert up.status == 303
        assert not any("evil" in cookie or "mine" in cookie for cookie in up.cookies)


class TestCounted:
    def test_what_pages_do_is_counted_where_the_alarms_look(
        self, person: Person, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Under the name of the function that does the same in the API."""
        person.browser.post("/app/billing/portal")
        Visitor().post("/app/login", {"email": person._email, "password": PASSWORD})
        counted = {
            name: found["service"]
            for line in capsys.readouterr().out.splitlines()
            if '"_aws"' in line and (found := json.loads(line))
            for name in ("PortalVisits", "SignedIn")
            if name in found
        }
        assert counted == {"PortalVisits": "portal", "SignedIn": "session"}


class TestSignedIn:
    PAGES = ("/app", "/app/usage", "/app/billing", "/app/account", "/", "/app/nothing")

    def test_every_page_has_a_way_out(self, person: Person) -> None:
        assert self.PAGES
        for path in self.PAGES:
            assert person.browser.get(path).form("/app/logout").method == "post"

    def test_a_password_is_typed_unseen_and_by_password_managers(self, person: Person) -> None:
        pages = [Visitor().get(path) for path in ("/app/login", "/app/signup")]
        pages.append(person.browser.get("/app/account"))
        fields = [
            field for page in pages for field in re.findall(r"<input[^>]*password[^>]*>", page.html)
        ]
        assert len(fields) == 5
        for field in fields:
            assert 'type="password"' in field
            assert re.search(r'autocomplete="(current|new)-password"', field)
            assert "onpaste" not in field

    def test_nothing_of_a_person_is_kept_by_the_browser(self, person: Person) -> None:
        """Beside the session's cookie, which scripts cannot read. Signing out deletes it."""
        out = person.browser.post("/app/logout")
        assert person.browser.cookies == {}
        assert out.headers["cache-control"] == "no-store"
        script = (ROOT / "functions" / "pages" / "assets" / "app.js").read_text(encoding="utf-8")
        assert "Storage" not in script
        assert "cookie" not in script


class TestNumbers:
    def test_the_overview_has_the_numbers_of_the_api(self, person: Person) -> None:
        person.use(150)
        shown = person.browser.get("/app")
        (feature,) = [each for each in person.board["usage"] if each["feature"] == "storage"]
        assert (feature["used"], feature["overage"]["cost"]) == ("150", "5.00")
        assert "150 of 100" in shown.text
        assert "$5.00" in shown.text

    def test_what_was_changed_at_commet_is_shown_as_of_the_last_answer(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        """After a visit to the portal Commet is asked. While it is away, the page says so."""
        said = "We could not reach billing just now."
        assert person.browser.post("/app/billing/portal").status == 303
        assert said not in person.browser.get("/app").text
        wiring.database().execute(
            "update users set answered_at = answered_at - interval '1 minute', asked_at = null"
        )
        remote.control.fault(action={"status": 503}, times=None)
        shown = person.browser.get("/app")
        assert said in shown.text
        assert "Usage Pro" in shown.text

    def test_the_file_has_the_rows_of_the_page(self, person: Person) -> None:
        person.use(7)
        page = person.browser.get("/app/usage?feature=storage")
        file = person.browser.get("/app/usage.csv?feature=storage")
        assert file.headers["content-type"].startswith("text/csv")
        (row,) = file.html.splitlines()[1:]
        assert row.split(",")[1:4] == ["storage", "", "7"]
        assert "7 GB" in page.text

    def test_a_property_splits_one_feature_at_a_time(self, person: Person) -> None:
        """Quantities of several features have different units."""
        person.use(7)
        shown = person.browser.get("/app/usage?by=region")
        assert '<option value="storage" selected>' in shown.html
        file = person.browser.get("/app/usage.csv?by=region")
        assert {row.split(",")[1] for row in file.html.splitlines()[1:]} == {"storage"}

    def test_a_spend_limit_is_set_and_removed(self, person: Person) -> None:
        saved = person.browser.post("/app/limit", {"amount": "1,250.50"})
        assert saved.location == "/app?done=limit_saved"
        assert person.board["spending"]["limit"] == "1250.50"
        refused = person.browser.post("/app/limit", {"amount": "a lot"})
        assert refused.status == 422
        assert refused.form("/app/limit").values["amount"] == "a lot"
        assert (
            person.browser.post("/app/limit", {"amount": ""}).location == "/app?done=limit_removed"
        )

    def test_an_alert_is_added_and_removed(self, person: Person) -> None:
        first = person.browser.get("/app")
        assert "80 % of what is included" in first.text
        typed = {"alert_of": "storage", "alert_value": "1,200.5", "alert_in": "amount"}
        saved = person.browser.post("/app/alerts", typed)
        assert saved.location == "/app?done=alert_saved"
        shown = person.browser.get("/app")
        assert "1,200.5 GB" in shown.text
        remove = shown.form("/app/alerts/remove")
        removed = person.browser.post("/app/alerts/remove", remove.values)
        assert removed.location == "/app?done=alert_removed"
        assert "1,200.5 GB" not in person.browser.get("/app").text
        assert person.browser.post("/app/alerts/remove", remove.values).status == 303

    def test_an_alert_says_when_it_was_reached(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        """Of each feature by its name; once more in the next period."""
        typed = {"alert_of": "storage", "alert_value": "60", "alert_in": "amount"}
        person.browser.post("/app/alerts", typed)
        assert "reached on" not in person.browser.get("/app").text
        person.use(60)
        first = formats.day(remote.now(), remote.now())
        remote.control.advance(days=1)
        person.use(25, key="k2")
        second = formats.day(remote.now(), remote.now())
        html = person.browser.get("/app")
        assert f"60 GB reached on {plain(first)}" in html.text
        assert f"80 % of what is included Storage: reached on {plain(second)}" in html.text
        assert html.text.count("reached on") == 2
        listed = call("GET", "/thresholds", token=person._token).json["thresholds"]
        reached = {
            (each["measure"], each["percent"] or each["amount"]): [
                one["feature"] for one in each["reached"]
            ]
            for each in listed
        }
        assert reached["usage", 80] == reached["usage", "60"] == ["storage"]
        assert reached["usage", 100] == reached["spend", 80] == []
        own = next(each for each in listed if each["id"])
        assert call("GET", f"/thresholds/{own['id']}", token=person._token).json == own

    def test_an_alert_of_the_cost_says_when_it_was_reached(self, person: Person) -> None:
        typed = {"alert_of": "-spend", "alert_value": "1", "alert_in": "amount"}
        person.browser.post("/app/alerts", typed)
        person.use(150)
        assert "$1.00 reached on" in person.browser.get("/app").text

    def test_an_alert_of_the_cost(self, person: Person) -> None:
        typed = {"alert_of": "-spend", "alert_value": "$12.50", "alert_in": "amount"}
        assert person.browser.post("/app/alerts", typed).status == 303
        typed |= {"alert_value": "90 %", "alert_in": "percent"}
        assert person.browser.post("/app/alerts", typed).status == 303
        shown = person.browser.get("/app").text
        assert "$12.50" in shown
        assert "90 % of the spend limit" in shown

    @pytest.mark.parametrize(
        ("value", "unit", "said"),
        [
            ("", "percent", "Type a number"),
            ("0", "percent", "Type a number"),
            ("2000", "percent", "too large"),
            ("half", "percent", "Type a whole number"),
            ("a lot", "amount", "Type a number such as 100.00."),
            ("0", "amount", "too small"),
        ],
    )
    def test_a_wrong_alert_stays_in_its_form(
        self, person: Person, value: str, unit: str, said: str
    ) -> None:
        typed = {"alert_of": "storage", "alert_value": value, "alert_in": unit}
        refused = person.browser.post("/app/alerts", typed)
        assert refused.status == 422
        assert said in refused.text
        assert refused.form("/app/alerts").values["alert_value"] == value
        assert "amount" in refused.form("/app/limit").values

    def test_the_21st_alert(self, person: Person) -> None:
        for percent in range(1, 21):
            typed = {"alert_of": "storage", "alert_value": str(percent), "alert_in": "percent"}
            assert person.browser.post("/app/alerts", typed).status == 303
        refused = person.browser.post("/app/alerts", typed | {"alert_value": "21"})
        assert refused.status == 409
        assert "Remove one first" in refused.text


class TestMarkup:
    def test_what_people_and_products_typed_comes_out_as_text(self, person: Person) -> None:
        person.browser.post("/app/account/name", {"name": NASTY})
        db = wiring.database()
        db.execute("update entitlements set name = %s, unit = %s", [NASTY, NASTY])
        db.execute("update subscriptions set plan_name = %s", [NASTY])
        for path in ("/app", "/app/account", "/app/billing", "/app/usage", "/app/billing/cancel"):
            shown = person.browser.get(path)
            assert shown.status == 200
            assert "<script>alert" not in shown.html
            assert "<b>" not in shown.html

    def test_what_is_in_the_address_comes_out_as_text(self, person: Person) -> None:
        typed = quote(NASTY)
        for path in (
            f"/?interval={typed}&q_storage={typed}",
            f"/app?feature={typed}&done={typed}",
            f"/app/usage?feature={typed}&from={typed}&to={typed}&by={typed}",
            f"/app/thanks?plan={typed}",
            f"/verify-email?token={typed}",
            f"/reset-password?token={typed}",
            f"/app/signup?plan={typed}",
            f"/app/{typed}",
        ):
            shown = Visitor().get(path) if "verify" in path else person.browser.get(path)
            assert "<script>alert" not in shown.html
