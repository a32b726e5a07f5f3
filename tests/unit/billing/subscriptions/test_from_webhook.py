"""Webhook events as news: what each says, and that nothing Commet signs can hurt."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.subscriptions import from_webhook
from billing.subscriptions.changes import Change
from billing.subscriptions.from_webhook import Unreadable, Webhook, change_of, parse

AT = "2026-09-01T10:05:00.000Z"
ABOUT = {"subscriptionId": "sub_3Vx9", "customerId": "usr_8f2c"}
START, END = "2026-09-01T00:00:00.000Z", "2026-10-01T00:00:00.000Z"
PERIOD = {"period_start": "2026-09-01T00:00:00+00:00", "period_end": "2026-10-01T00:00:00+00:00"}
PLAN = {"planId": "pln_meter1", "planName": "Usage Pro"}
PLAN_KNOWN = {"plan_id": "pln_meter1", "plan_name": "Usage Pro"}


def envelope(event: Any, data: Any, **changes: Any) -> bytes:
    whole = {"id": "whev_1", "event": event, "timestamp": AT, "organizationId": "o",
             "mode": "sandbox", "apiVersion": "2026-08-27", "data": data}  # fmt: skip
    return json.dumps(whole | changes).encode()


def change(event: str, **data: Any) -> Change | None:
    return change_of(parse(envelope(event, ABOUT | data)))


class TestParse:
    def test_an_event(self) -> None:
        """What we read of the example in Commet's contract."""
        data = ABOUT | {"status": "active"}
        assert parse(envelope("subscription.activated", data)) == Webhook(
            id="whev_1",
            type="subscription.activated",
            mode="sandbox",
            occurred_at=datetime(2026, 9, 1, 10, 5, tzinfo=UTC),
            customer="usr_8f2c",
            data=data,
        )

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"null", b"[]", b"7", b'"text"', b"true", b"\xff\xfe", b"\x00", b"nul",
         b"[" * 200_000, b'{"a":' * 200_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xed\xa0\x80"],
        ids=range(14),
    )  # fmt: skip
    def test_what_is_no_event(self, body: bytes) -> None:
        """Signed, but not an object we can read: told apart, without quoting it."""
        with pytest.raises(Unreadable) as caught:
            parse(body)
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize("value", [None, "", 7, [], {}, "a\x00b", "\ud800", "x" * 501, True])
    def test_without_a_usable_id(self, value: object) -> None:
        """The body stands in for it, so the same body is still the same event."""
        body = envelope("x", {}, id=value)
        assert parse(body).id == from_webhook.body_id(body)
        assert parse(body).id.startswith("sha256:")

    @pytest.mark.parametrize(
        "value",
        [None, "", "soon", 7, 1e300, [], {}, True, "0001-01-01T00:00:00+14:00",
         "9999-12-31T23:59:59-12:00", "2026-13-01T00:00:00Z", "x" * 10_000],
    )  # fmt: skip
    def test_without_a_usable_time(self, value: object) -> None:
        """No time, not a wrong one."""
        assert parse(envelope("x", {}, timestamp=value)).occurred_at is None

    def test_times(self) -> None:
        """Offsets are understood; without one it is UTC."""
        moment = datetime(2026, 9, 1, 10, 5, tzinfo=UTC)
        for text in (AT, "2026-09-01T12:05:00+02:00", "2026-09-01T10:05:00"):
            assert parse(envelope("x", {}, timestamp=text)).occurred_at == moment

    @pytest.mark.parametrize("data", [None, [], "text", 7, True])
    def test_data_that_is_no_object(self, data: object) -> None:
        """An event that says nothing."""
        event = parse(envelope("subscription.activated", data))
        assert (event.data, event.customer) == ({}, None)
        assert change_of(event) is None

    def test_who_is_meant(self) -> None:
        """Endpoints pinned to an old version put our id beside Commet's."""
        data = {"customerId": "cus_1", "externalId": "usr_1"}
        assert parse(envelope("x", data)).customer == "usr_1"


class TestChangeOf:
    @pytest.mark.parametrize(
        ("event", "data", "known"),
        [
            ("subscription.created", PLAN | {"status": "pending_payment", "startDate": START},
             PLAN_KNOWN | {"status": "pending_payment"}),
            ("subscription.activated",
             {"status": "active", "currentPeriodStart": START, "currentPeriodEnd": END},
             {"status": "active"} | PERIOD),
            ("subscription.cancellation_scheduled", {"status": "active", "effectiveAt": END},
             {"status": "active", "cancel_at_period_end": True}),
            ("subscription.cancellation_revoked", {"status": "active", "currentPeriodEnd": END},
             {"status": "active", "cancel_at_period_end": False,
              "period_end": PERIOD["period_end"]}),
            ("subscription.past_due", {"status": "past_due"}, {"status": "past_due"}),
            ("subscription.plan_change_scheduled", {"status": "active"}, {"status": "active"}),
            ("subscription.plan_change_scheduled",
             {"status": "active", "scheduledPlan": {"id": "pln_free", "name": "Free"},
              "scheduledBillingInterval": None, "effectiveAt": END},
             {"status": "active", "scheduled_change": {
                 "plan_id": "pln_free", "plan_name": "Free", "interval": None,
                 "effective_at": PERIOD["period_end"]}}),
            ("subscription.pause_scheduled", {"status": "active"}, {"status": "active"}),
            ("subscription.pause_updated", {"status": "active"}, {"status": "active"}),
            ("subscription.pause_revoked", {"status": "active"}, {"status": "active"}),
            ("subscription.paused", {}, {"status": "paused"}),
            ("subscription.resume_failed", {"status": "paused"}, {"status": "paused"}),
            ("checkout.ready", {"checkoutUrl": "https://pay.example/1"},
             {"checkout_url": "https://pay.example/1"}),
            ("trial.checkout_ready", {"checkoutUrl": "https://pay.example/1"},
             {"checkout_url": "https://pay.example/1"}),
        ],
    )  # fmt: skip
    def test_what_it_says(self, event: str, data: dict[str, Any], known: dict[str, Any]) -> None:
        """Events that carry all there is to know about what they tell."""
        assert change(event, **data) == Change("sub_3Vx9", known)

    @pytest.mark.parametrize(
        ("event", "data", "known"),
        [
            ("subscription.updated", {"status": "active", "endDate": END}, {"status": "active"}),
            ("subscription.reactivated",
             {"status": "active", "currentPeriodStart": START, "currentPeriodEnd": END},
             {"status": "active"} | PERIOD),
            ("subscription.plan_change_revoked", {"status": "active"},
             {"status": "active", "scheduled_change": None}),
            ("subscription.plan_changed",
             {"currentPlan": {"id": "pln_2", "name": "Max"}, "billingInterval": "yearly"},
             {"plan_id": "pln_2", "plan_name": "Max", "billing_interval": "yearly",
              "scheduled_change": None}),
            ("subscription.resumed", {"status": "active"}, {"status": "active"}),
            ("trial.started", PLAN | {"status": "trialing", "trialEndsAt": END},
             PLAN_KNOWN | {"status": "trialing", "trial_ends_at": PERIOD["period_end"]}),
            ("trial.will_end", {"status": "trialing"}, {"status": "trialing"}),
            ("trial.expired", {"status": "trialing"}, {}),
            ("trial.converted", {"status": "active"}, {"status": "active"}),
            ("subscription.canceled", {"status": "canceled", "endDate": END},
             {"status": "canceled", "scheduled_change": None}),
            ("subscription.canceled", {}, {"status": "canceled", "scheduled_change": None}),
            ("invoice.created", {"invoiceStatus": "outstanding"}, {}),
            ("payment.recovered", {}, {}),
            ("payment.failed", {"failureCode": "card_declined"}, {}),
            ("payment.retry_failed", {"reason": "dunning_exhausted"}, {}),
            ("invoice.voided", {"invoiceStatus": "void"}, {}),
            ("plan_grant.created", {"status": "active"}, {}),
            ("plan_grant.revoked", {"status": "revoked"}, {}),
        ],
    )  # fmt: skip
    def test_what_has_to_be_asked_for(
        self, event: str, data: dict[str, Any], known: dict[str, Any]
    ) -> None:
        """Events that do not carry the whole truth mark their subscription."""
        assert change(event, **data) == Change("sub_3Vx9", known, mark=True)

    @pytest.mark.parametrize(
        "event",
        ["payment.received", "payment.refunded", "payment.disputed", "payment.dispute_resolved",
         "invoice.overdue", "invoice.upcoming", "payment_link.completed", "payment_method.attached",
         "customer.created", "customer.updated", "usage.recorded", "quota.exceeded",
         "credits.low", "balance.low", "payout.paid", "subscription.teleported", ""],
    )  # fmt: skip
    def test_what_changes_nothing(self, event: str) -> None:
        """Neither payments nor notices move state: Commet tells that by itself. News of a payment
        that does not say which payment it is about is not kept either."""
        assert change(event, status="canceled", failureCode="card_declined") is None

    @pytest.mark.parametrize("event", sorted(from_webhook._RULES))
    def test_without_a_subscription_or_a_time(self, event: str) -> None:
        """Nothing to apply it to; or nothing to order it by, which leaves asking."""
        assert change_of(parse(envelope(event, {"customerId": "usr_1"}))) is None
        timeless = parse(envelope(event, ABOUT, timestamp=None))
        assert change_of(timeless) == Change("sub_3Vx9", mark=True)

    def test_without_a_customer(self) -> None:
        """It cannot be anybody's."""
        assert change_of(parse(envelope("subscription.canceled", {"subscriptionId": "s"}))) is None


FEATURE = {
    "code": "storage", "name": "Storage", "unitName": "GB", "allowed": True, "type": "usage",
    "consumption": {
        "model": "metered", "period": {"start": START, "end": END}, "unitsUsed": 0,
        "includedUnits": 100, "remainingUnits": 100, "unlimited": False,
        "overage": {"enabled": True, "units": 0,
                    "unitPrice": {"amount": 1000, "currency": "usd", "scale": 10000}},
    },
}  # fmt: skip
STATE = {
    "trigger": "subscription_activated", "status": "active",
    "plan": {"id": "pln_meter1", "name": "Usage Pro"}, "billingInterval": "monthly",
    "consumptionModel": "metered", "features": [FEATURE], "seats": [], "credits": None,
    "balance": None,
}  # fmt: skip


def state(**changes: Any) -> Change:
    found = change("customer.state_changed", **(STATE | changes))
    assert found is not None
    return found


class TestStateChanged:
    def test_seats(self) -> None:
        """They tell what is included beside `usage`, in the words that metered features use."""
        seats = {
            "code": "seats", "name": "Seats", "unitName": None, "allowed": True, "type": "seats",
            "usage": {"period": PERIOD, "unitsUsed": 2, "includedUnits": 5, "unlimited": False,
                      "overage": {"enabled": True, "units": 0, "unitPrice": {
                          "amount": 50000, "currency": "usd", "scale": 10000}}},
        }  # fmt: skip
        assert state(features=[seats]).features == [
            {
                "feature": "seats", "name": "Seats", "type": "seats", "unit": None,
                "allowed": True, "model": None, "included": "5", "unlimited": False,
                "overage_enabled": True, "unit_price": "50000", "currency": "usd",
            }
        ]  # fmt: skip

    def test_a_free_plan(self) -> None:
        """No interval is what Commet says of a free plan; not to say is something else."""
        assert state(billingInterval=None).known["billing_interval"] is None
        silent = change("customer.state_changed", **{
            name: value for name, value in STATE.items() if name != "billingInterval"
        })  # fmt: skip
        assert silent is not None
        assert "billing_interval" not in silent.known

    def test_the_whole_state(self) -> None:
        """Subscription, entitlements and allowance period at once."""
        found = state()
        assert found.known == {"status": "active", "billing_interval": "monthly"} | PLAN_KNOWN
        assert found.features == [
            {
                "feature": "storage", "name": "Storage", "type": "usage", "unit": "GB",
                "allowed": True, "model": "metered", "included": "100", "unlimited": False,
                "overage_enabled": True, "unit_price": "1000", "currency": "usd",
            }
        ]  # fmt: skip
        assert found.period is not None
        assert found.period.subscription_id == "sub_3Vx9"
        assert {"period_start": found.period.start, "period_end": found.period.end} == PERIOD
        assert (found.mark, found.ends_all) == (False, False)

    @pytest.mark.parametrize(
        "changes",
        [{"status": "none", "subscriptionId": None}, {"status": "none"}, {"status": None},
         {"subscriptionId": None}],
    )  # fmt: skip
    def test_none(self, changes: dict[str, Any]) -> None:
        """`none` and null end whatever was live."""
        found = state(features=[], **changes)
        assert (found.ends_all, found.features, found.subscription_id) == (True, [], None)

    @pytest.mark.parametrize("status", [7, [], "", "x" * 501, "a\x00"])
    def test_an_unreadable_status(self, status: object) -> None:
        """It takes nobody's access: it only makes us ask."""
        found = state(status=status)
        assert (found.ends_all, found.mark, found.subscription_id) == (False, True, "sub_3Vx9")

    @pytest.mark.parametrize("subscription", [7, [], "", "a\x00"])
    def test_an_unreadable_subscription(self, subscription: object) -> None:
        """Nor does this."""
        assert not state(subscriptionId=subscription).ends_all

    def test_said_by_leaving_it_out(self) -> None:
        """A state without status and subscription says nothing about them."""
        found = change_of(parse(envelope("customer.state_changed", {"customerId": "usr_1"})))
        assert found is not None
        assert not found.ends_all

    @pytest.mark.parametrize(
        "features", [None, {}, "x", [None], [FEATURE, {}], [FEATURE, {"code": 7}], [[]]]
    )
    def test_a_set_that_is_not_whole(self, features: object) -> None:
        """What is missing from it would be taken away: so it is not believed, but asked for."""
        found = state(features=features)
        assert (found.features, found.mark) == (None, True)

    @pytest.mark.parametrize(
        ("path", "value", "field", "expected"),
        [
            (["allowed"], "yes", "allowed", False),
            (["enabled"], False, "allowed", False),
            (["consumption"], [], "included", None),
            (["consumption", "includedUnits"], 1.5, "included", "1.5"),
            (["consumption", "includedUnits"], 5 * 10**12, "included", "5000000000000"),
            (["consumption", "includedUnits"], 10**15, "included", None),
            (["consumption", "includedUnits"], True, "included", None),
            (["consumption", "includedUnits"], "1e3", "included", None),
            (["consumption", "unlimited"], 1, "unlimited", False),
            (["consumption", "overage", "enabled"], "true", "overage_enabled", False),
            (["consumption", "overage", "unitPrice"], 7, "unit_price", None),
        ],
    )
    def test_what_cannot_be_read_grants_nothing(
        self, path: list[str], value: object, field: str, expected: object
    ) -> None:
        """Only what is there, of the right kind, counts."""
        feature = json.loads(json.dumps(FEATURE))
        place = feature
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        found = state(features=[feature]).features
        assert found is not None
        assert [each[field] for each in found] == [expected]

    @pytest.mark.parametrize("period", [None, {}, {"start": END, "end": START},
                                        {"start": START, "end": START}])  # fmt: skip
    def test_no_period(self, period: object) -> None:
        """A period that does not begin before it ends is none."""
        consumption = {"model": "metered", "period": period}
        assert state(features=[FEATURE | {"consumption": consumption}]).period is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(["\x00", "\ud800", "none", "active", "sub_1", AT, "0001-01-01T00:00:00+14"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from([*STATE, *FEATURE, "consumption", "includedUnits", "period",
                         "overage", "unitPrice", "amount", *ABOUT, *PLAN, "currentPlan",
                         "id", "start", "end", "currentPeriodStart", "trialEndsAt",
                         "checkoutUrl"]),
        inner, max_size=8),
    max_leaves=25,
)  # fmt: skip


class TestHostileEvents:
    @settings(max_examples=60)
    @given(
        event=st.sampled_from([*from_webhook.HANDLED, *["customer.state_changed"] * 30]),
        data=st.dictionaries(st.sampled_from([*STATE, *PLAN, "currentPlan"]), json_values),
        timestamp=st.sampled_from([AT]) | json_values,
    )
    def test_news_can_be_stored(self, event: str, data: dict[str, Any], timestamp: object) -> None:
        """Whatever Commet signs is read without an error, into JSON that Postgres can hold."""
        parsed = parse(envelope(event, data | ABOUT, timestamp=timestamp))
        found = change_of(parsed)
        if found is not None:
            assert storable(found.parameter().obj)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, body: bytes) -> None:
        """Bytes that were signed end as an event or as unreadable, never otherwise."""
        with suppress(Unreadable):
            change_of(parse(body))


def storable(value: object) -> bool:
    """Whether jsonb takes it: no NUL, no half surrogate pairs, no NaN."""
    if isinstance(value, dict):
        return all(storable(key) and storable(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(storable, value))
    if isinstance(value, str):
        return "\x00" not in value and value.encode("utf-8", "ignore").decode() == value
    return value is None or isinstance(value, bool)
