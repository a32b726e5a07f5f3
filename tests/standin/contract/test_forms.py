"""The hosted pages as plain forms, without a browser and without JavaScript."""

import httpx
import pytest
from commet import Commet, CommetAPIError

from standin.testing import StandIn

CARD = {"card_number": "4242 4242 4242 4242", "expiry": "12/34", "cvc": "123", "name": "Ana"}


def _pending(sdk: Commet, success_url: str | None = None) -> str:
    sdk.customers.create(email="ana@example.com", id="usr_1")
    sub = sdk.subscriptions.create(
        customer_id="usr_1", plan_code="usage_pro", success_url=success_url
    )
    assert sub.checkout_url is not None
    return sub.checkout_url


class TestCheckout:
    def test_paying_leads_to_the_success_url(self, sdk: Commet) -> None:
        """303, and the subscription is active before the buyer gets there."""
        url = _pending(sdk, "https://app.example.com/return?x=1")
        assert "$29.00" in httpx.get(url).text
        answer = httpx.post(url, data=CARD)
        assert answer.status_code == 303
        assert answer.headers["Location"] == "https://app.example.com/return?x=1"
        active = sdk.subscriptions.get_active(customer_id="usr_1")
        assert active is not None
        assert active.status == "active"

    def test_without_one_the_page_says_so_itself(self, sdk: Commet) -> None:
        """The same address then shows what became of it."""
        url = _pending(sdk)
        answer = httpx.post(url, data=CARD, follow_redirects=True)
        assert str(answer.url) == url
        assert "Payment received" in answer.text

    def test_paying_twice_charges_once(self, sdk: Commet) -> None:
        """A double click is not a second payment."""
        url = _pending(sdk)
        assert [httpx.post(url, data=CARD).status_code for _ in range(2)] == [303, 303]
        assert len(sdk.invoices.list(customer_id="usr_1").data) == 1

    @pytest.mark.parametrize(
        ("number", "words"),
        [
            ("4000000000000002", "declined"),
            ("4000000000009995", "insufficient funds"),
            ("4000000000000069", "expired"),
            ("4000000000003220", "Authentication is not supported here"),
            ("4000002500003155", "Authentication is not supported here"),
            ("4000000000000341", "declined"),
        ],
    )
    def test_refused_cards(self, sdk: Commet, server: StandIn, number: str, words: str) -> None:
        """402 with the provider's words; the link can still be paid."""
        url = _pending(sdk)
        answer = httpx.post(url, data=CARD | {"card_number": number})
        assert answer.status_code == 402
        assert words in answer.text
        tried = [t["status"] for t in server.control.state()["transactions"]]
        assert tried == ["failed"]
        assert server.control.events("payment.failed") == []
        assert httpx.post(url, data=CARD).status_code == 303

    @pytest.mark.parametrize(
        ("field", "value"),
        [("card_number", "4242 4242 4242 4241"), ("expiry", "01/20"), ("cvc", ""), ("expiry", "x")],
    )
    def test_a_form_filled_in_wrongly(
        self, sdk: Commet, server: StandIn, field: str, value: str
    ) -> None:
        """422, the field is marked, nobody is charged and nothing is told."""
        url = _pending(sdk)
        answer = httpx.post(url, data=CARD | {field: value})
        assert answer.status_code == 422
        assert f'id="{field}-problem"' in answer.text
        assert server.control.events("payment.failed") == []

    def test_an_unknown_link(self, server: StandIn) -> None:
        """A page, not an error dump."""
        answer = httpx.get(f"{server.public_url}/checkout/tok_unknown")
        assert answer.status_code == 404
        assert "no longer valid" in answer.text

    def test_names_cannot_inject_markup(self, sdk: Commet) -> None:
        """What people type is shown as text."""
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        form = CARD | {"name": '"><script>x</script>', "cvc": ""}
        assert "<script>x" not in httpx.post(str(sub.checkout_url), data=form).text


class TestPaymentMethod:
    def test_saves_another_card(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """Refused cards and unfinished forms change nothing; a good one is used from now on."""
        session = sdk.subscriptions.update_payment_method(
            subscribed, success_url="https://app.example.com/done"
        )
        assert "Visa ending 4242" in httpx.get(session.checkout_url).text
        for change, status in (({"card_number": "4000000000000002"}, 402), ({"cvc": ""}, 422)):
            assert httpx.post(session.checkout_url, data=CARD | change).status_code == status
        assert server.control.events("payment_method.updated") == []
        answer = httpx.post(session.checkout_url, data=CARD | {"card_number": "5555555555554444"})
        assert answer.headers["Location"] == "https://app.example.com/done"
        told = server.control.events("payment_method.updated")[0]["data"]
        assert told["card"]["last4"] == "4444"

    def test_pays_what_is_owed(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """Without a success URL the page says so itself."""
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=31)
        url = sdk.subscriptions.update_payment_method(subscribed).checkout_url
        assert "Save card and pay $29.00" in httpx.get(url).text
        form = CARD | {"card_number": "4000 0000 0000 0341"}
        answer = httpx.post(url, data=form)
        assert (answer.status_code, "could not be charged" in answer.text) == (402, True)
        assert "Card saved" in httpx.post(url, data=CARD).text
        assert sdk.subscriptions.get(subscribed).status == "active"

    def test_only_while_there_is_access(self, sdk: Commet, subscribed: str) -> None:
        """The link dies with the subscription, and none is given out any more."""
        url = sdk.subscriptions.update_payment_method(subscribed).checkout_url
        sdk.subscriptions.cancel(subscribed, immediate=True)
        assert httpx.get(url).status_code == 404
        assert httpx.post(url, data=CARD).status_code == 404
        with pytest.raises(CommetAPIError) as caught:
            sdk.subscriptions.update_payment_method(subscribed)
        assert (caught.value.code, caught.value.status_code) == ("subscription_not_active", 409)

    def test_tokens_are_signed(self, sdk: Commet, subscribed: str, server: StandIn) -> None:
        """One of another kind, or with anything changed, opens nothing."""
        url = sdk.subscriptions.update_payment_method(subscribed).checkout_url
        token = url.rpartition("/")[2]
        for path in (
            f"payment-method/{token[:-1]}x",
            "payment-method/x",
            f"payment-method/A{token}",
        ):
            assert httpx.get(f"{server.public_url}/{path}").status_code == 404
        assert httpx.get(f"{server.public_url}/invoices/{token}").status_code == 410


class TestInvoice:
    def test_can_be_read_for_seven_days(
        self, sdk: Commet, subscribed: str, server: StandIn
    ) -> None:
        """Number, who it is for, each line and the total."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        sdk.subscriptions.change_plan(subscribed, new_plan_id="pln_usagemax")
        newest = sdk.invoices.list(customer_id="usr_1").data[0]
        link = sdk.invoices.get_download_url(newest.id)
        text = httpx.get(link.url).text
        for words in (
            "INV-0002",
            "Ana Ruiz",
            "Usage Max (monthly)",
            "$3.00",
            "\N{MINUS SIGN}$29.00",
            "$73.00",
        ):
            assert words in text
        server.control.advance(days=8)
        assert httpx.get(link.url).status_code == 410


class TestPortal:
    @pytest.fixture
    def portal(self, sdk: Commet, subscribed: str) -> str:
        assert subscribed
        return sdk.portal.get_url(
            customer_id="usr_1", return_url="https://app.example.com"
        ).portal_url

    def test_shows_subscription_usage_and_invoices(self, sdk: Commet, portal: str) -> None:
        """130 GB of 100: 30 beyond, $3.00."""
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=130)
        text = httpx.get(portal).text
        for words in ("Usage Pro", "Active", "130 of 100 GB", "$3.00", "INV-0001", "Ana Ruiz"):
            assert words in text
        assert 'href="https://app.example.com"' in text

    def test_cancel_at_period_end_and_back(self, sdk: Commet, portal: str, subscribed: str) -> None:
        """Each form leads back to the page with a word on what was done."""
        form = {"when": "period_end", "reason": "too expensive"}
        answer = httpx.post(f"{portal}/cancel", data=form, follow_redirects=True)
        assert "will end with the current period" in answer.text
        canceled = sdk.subscriptions.get(subscribed)
        assert canceled.cancel_at_period_end
        assert canceled.cancellation is not None
        assert canceled.cancellation.reason == "too expensive"
        answer = httpx.post(f"{portal}/uncancel", follow_redirects=True)
        assert "continues" in answer.text
        assert not sdk.subscriptions.get(subscribed).cancel_at_period_end

    def test_cancel_now(self, sdk: Commet, portal: str, subscribed: str) -> None:
        """Ends at once; a second click finds nothing to cancel."""
        assert httpx.post(f"{portal}/cancel", data={"when": "now"}).status_code == 303
        assert sdk.subscriptions.get(subscribed).status == "canceled"
        assert httpx.post(f"{portal}/cancel", data={"when": "now"}).status_code == 409
        assert "No subscription" in httpx.get(portal).text

    def test_save_another_card(self, server: StandIn, portal: str) -> None:
        """The card changes, and that is told; a refused one changes nothing."""
        form = CARD | {"card_number": "5555 5555 5555 4444"}
        answer = httpx.post(f"{portal}/payment-method", data=form, follow_redirects=True)
        assert "Mastercard ending 4444" in answer.text
        updated = server.control.events("payment_method.updated")[0]["data"]
        assert updated["card"]["last4"] == "4444"
        form = CARD | {"card_number": "4000 0000 0000 0002"}
        assert httpx.post(f"{portal}/payment-method", data=form).status_code == 402
        assert "ending 4444" in httpx.get(portal).text

    def test_another_card_pays_what_is_owed(
        self, sdk: Commet, server: StandIn, subscribed: str
    ) -> None:
        """Who is behind need not look for the recovery link."""
        server.control.set_card("usr_1", charge_failure="card_declined")
        server.control.advance(days=31)
        portal = sdk.portal.get_url(customer_id="usr_1").portal_url
        assert "Save card and pay $29.00" in httpx.get(portal).text
        form = CARD | {"card_number": "4000 0000 0000 0341"}
        answer = httpx.post(f"{portal}/payment-method", data=form, follow_redirects=True)
        assert "could not be charged" in answer.text
        assert sdk.subscriptions.get(subscribed).status == "past_due"
        answer = httpx.post(f"{portal}/payment-method", data=CARD, follow_redirects=True)
        assert "open invoice is paid" in answer.text
        assert sdk.subscriptions.get(subscribed).status == "active"

    def test_changing_the_plan_now(self, sdk: Commet, portal: str, subscribed: str) -> None:
        """First what it costs, then the change."""
        assert "Change plan" in httpx.get(portal).text
        wanted = {"plan": "pln_usagemax", "interval": "monthly"}
        confirm = httpx.get(f"{portal}/change-plan", params=wanted).text
        for words in (
            "Change to Usage Max",
            "$99.00",
            "\N{MINUS SIGN}$29.00",
            "Pay $70.00 and change",
        ):
            assert words in confirm
        assert len(sdk.invoices.list(customer_id="usr_1").data) == 1
        answer = httpx.post(f"{portal}/change-plan", data=wanted, follow_redirects=True)
        assert "Your plan has been changed." in answer.text
        assert sdk.subscriptions.get(subscribed).plan.id == "pln_usagemax"  # type: ignore[union-attr]
        assert sdk.invoices.list(customer_id="usr_1").data[0].total == 7000

    def test_changing_the_plan_later(self, sdk: Commet, portal: str, subscribed: str) -> None:
        """What was paid for is used up; the page shows what comes."""
        confirm = httpx.get(f"{portal}/change-plan", params={"plan": "pln_free"}).text
        assert "You keep Usage Pro until" in confirm
        answer = httpx.post(
            f"{portal}/change-plan", data={"plan": "pln_free"}, follow_redirects=True
        )
        assert "will change with the next period" in answer.text
        assert "Free from" in answer.text
        assert sdk.subscriptions.get(subscribed).scheduled_plan_change is not None

    def test_a_declined_change_says_so(
        self, sdk: Commet, server: StandIn, portal: str, subscribed: str
    ) -> None:
        """The attempt is kept, the plan stays."""
        server.control.set_card("usr_1", charge_failure="card_declined")
        wanted = {"plan": "pln_usagemax", "interval": "monthly"}
        answer = httpx.post(f"{portal}/change-plan", data=wanted, follow_redirects=True)
        assert "nothing has changed" in answer.text
        assert len(server.control.events("payment.failed")) == 1
        assert sdk.subscriptions.get(subscribed).plan.id == "pln_usagepro"  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("wanted", "status"),
        [
            ({"plan": "pln_usagepro", "interval": "monthly"}, 400),
            ({"plan": "pln_none"}, 404),
            ({"plan": "pln_fixedbox"}, 400),
            ({}, 404),
        ],
    )
    def test_a_change_that_cannot_be(
        self, portal: str, wanted: dict[str, str], status: int
    ) -> None:
        """Refused with a reason, before and at the change."""
        assert httpx.post(f"{portal}/change-plan", data=wanted).status_code == status
        if wanted:
            assert httpx.get(f"{portal}/change-plan", params=wanted).status_code == status

    def test_from_a_free_plan(self, sdk: Commet) -> None:
        """Through the checkout, and back to the portal."""
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sdk.subscriptions.create(customer_id="usr_1", plan_code="free")
        portal = sdk.portal.get_url(customer_id="usr_1").portal_url
        wanted = {"plan": "pln_usagepro", "interval": "yearly"}
        assert "Continue to payment" in httpx.get(f"{portal}/change-plan", params=wanted).text
        checkout = httpx.post(f"{portal}/change-plan", data=wanted).headers["Location"]
        assert "Pay $290.00" in httpx.get(checkout).text
        answer = httpx.post(checkout, data=CARD, follow_redirects=True)
        assert str(answer.url) == f"{portal}?done=changed"
        assert "Usage Pro" in answer.text

    def test_a_pause(self, sdk: Commet, server: StandIn, portal: str, subscribed: str) -> None:
        """Shown, changed, revoked; in effect it can be resumed for its price."""
        sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=30)
        text = httpx.get(portal).text
        assert "A pause is scheduled" in text
        assert "Cancel subscription" not in text
        assert "Change plan" not in text
        assert httpx.post(f"{portal}/pause", data={"days": "0"}).status_code == 400
        httpx.post(f"{portal}/pause", data={"days": ""})
        assert sdk.subscriptions.get(subscribed).pause.resume_at is None  # type: ignore[union-attr]
        httpx.post(f"{portal}/pause/revoke")
        assert sdk.subscriptions.get(subscribed).pause is None
        sdk.subscriptions.pause(subscribed, mode="period_end", duration_days=None)
        server.control.advance(days=31)
        portal = sdk.portal.get_url(customer_id="usr_1").portal_url
        assert "Resume and pay $29.00" in httpx.get(portal).text
        server.control.set_card("usr_1", charge_failure="card_declined")
        answer = httpx.post(f"{portal}/resume", follow_redirects=True)
        assert "declined" in answer.text
        server.control.set_card("usr_1", charge_failure=None)
        answer = httpx.post(f"{portal}/resume", follow_redirects=True)
        assert "active again" in answer.text
        assert sdk.subscriptions.get(subscribed).status == "active"

    def test_reactivating(self, sdk: Commet, server: StandIn, portal: str, subscribed: str) -> None:
        """What has ended can begin anew from here; a declined charge changes nothing."""
        sdk.subscriptions.cancel(subscribed, immediate=True)
        assert "Reactivate for $29.00 per month" in httpx.get(portal).text
        server.control.set_card("usr_1", charge_failure="card_declined")
        answer = httpx.post(f"{portal}/reactivate", follow_redirects=True)
        assert "declined" in answer.text
        assert sdk.subscriptions.get(subscribed).status == "canceled"
        answer = httpx.post(f"{portal}/payment-method", data=CARD, follow_redirects=True)
        assert "has been saved" in answer.text
        answer = httpx.post(f"{portal}/reactivate", follow_redirects=True)
        assert "Welcome back" in answer.text
        assert sdk.subscriptions.get(subscribed).status == "active"
        assert httpx.post(f"{portal}/reactivate").status_code == 409

    def test_an_unknown_session(self, server: StandIn) -> None:
        """Says how to get a new one."""
        answer = httpx.get(f"{server.public_url}/portal/ps_unknown")
        assert answer.status_code == 410
        assert "expired" in answer.text
