"""One walk with the official SDK through every endpoint there is; every answer is complete."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from commet import Commet, CommetAPIError
from commet.types import BatchCreateCustomersParamsCustomersItem as Entry
from commet.types import TransactionStatus

from standin.api import ROUTES
from standin.testing import Receiver, StandIn

Complete = Callable[[Any], Any]


def _catalogue(sdk: Commet, complete: Complete) -> None:
    complete(sdk.plans.get(complete(sdk.plans.list()).data[0].id))
    complete(sdk.features.get(complete(sdk.features.list()).data[0].code))


def _customers(sdk: Commet, complete: Complete) -> None:
    ana = complete(sdk.customers.create(email="ana@example.com", id="usr_1"))
    complete(sdk.customers.get(ana.id))
    complete(sdk.customers.update(ana.id, full_name="Ana Ruiz"))
    complete(sdk.customers.create_batch(customers=[Entry(email="b@example.com", id="usr_2")]))
    complete(sdk.customers.list())


def _subscriptions(sdk: Commet, complete: Complete, server: StandIn) -> None:
    sub = complete(sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")).id
    server.control.pay(sub)
    complete(sdk.subscriptions.get(sub))
    complete(sdk.subscriptions.get_active(customer_id="usr_1"))
    complete(sdk.subscriptions.cancel(sub))
    complete(sdk.subscriptions.uncancel(sub))
    complete(sdk.subscriptions.preview_change(sub, plan_id="pln_usagemax"))
    for plan in ("pln_usagemax", "pln_free"):
        complete(sdk.subscriptions.change_plan(sub, new_plan_id=plan))
        complete(sdk.subscriptions.list())
    free = complete(sdk.subscriptions.create(customer_id="usr_2", plan_code="free")).id
    complete(sdk.subscriptions.change_plan(free, new_plan_id="pln_usagepro"))
    complete(sdk.subscriptions.update_payment_method(sub))


def _usage(sdk: Commet, complete: Complete) -> None:
    complete(sdk.usage.track(feature_code="storage", customer_id="usr_1", value=2))
    complete(sdk.usage.set(feature_code="storage", customer_id="usr_1", value=7))
    # The SDK leaves this one a dictionary: see TestUsage.test_check for its keys.
    sdk.usage.check(customer_id="usr_1", feature_code="storage")
    complete(sdk.feature_access.get("storage", customer_id="usr_1"))
    complete(sdk.feature_access.list(customer_id="usr_1"))
    complete(sdk.portal.get_url(customer_id="usr_1"))
    invoice = complete(sdk.invoices.list()).data[0].id
    complete(sdk.invoices.get(invoice))
    complete(sdk.invoices.get_download_url(invoice))


def _bad_times(sdk: Commet, complete: Complete, server: StandIn) -> None:
    sdk.customers.create(email="eve@example.com", id="usr_3")
    sub = sdk.subscriptions.create(customer_id="usr_3", plan_code="usage_pro").id
    server.control.pay(sub)
    complete(sdk.subscriptions.pause(sub, mode="period_end", duration_days=7))
    complete(sdk.subscriptions.update_pause(sub, duration_days=None))
    complete(sdk.subscriptions.list(customer_id="usr_3"))
    complete(sdk.subscriptions.revoke_pause(sub))
    complete(sdk.subscriptions.pause(sub, mode="immediate", duration_days=7))
    complete(sdk.subscriptions.resume(sub))
    server.control.set_card("usr_3", charge_failure="card_declined")
    complete(sdk.test_clock.advance(advance_days=31))
    server.control.settle()
    complete(sdk.test_clock.get())
    complete(sdk.subscriptions.create_recovery_link(sub))
    server.control.set_card("usr_3", charge_failure=None)
    complete(sdk.subscriptions.reactivate(sub))
    with suppress(CommetAPIError):  # it has been replaced, and says so
        sdk.test_clock.process_billing()


def _payments(sdk: Commet, complete: Complete, server: StandIn) -> None:
    link = complete(sdk.payments.create(amount=500, currency="usd", description="Extra")).id
    complete(sdk.payments.cancel(link))
    complete(sdk.payments.get(link))
    order: dict[str, Any] = {"amount": 500, "currency": "eur", "description": "Extra"}
    complete(sdk.payments.charge(customer_id="usr_3", **order))
    complete(sdk.payments.list())
    paid = complete(sdk.transactions.list()).data[0].id
    complete(sdk.transactions.get(paid))
    complete(sdk.transactions.refund(paid))
    server.control.set_card("usr_3", charge_failure="card_declined")
    sdk.test_clock.advance(advance_days=31)
    server.control.settle()
    server.control.set_card("usr_3", charge_failure=None)
    owed = sdk.transactions.list(status=TransactionStatus.FAILED).data[0].id
    complete(sdk.transactions.retry(owed))


def _webhooks(sdk: Commet, complete: Complete, url: str) -> None:
    endpoint = complete(sdk.webhooks.create(url=url, events=["customer.created"])).id
    complete(sdk.webhooks.list())
    complete(sdk.webhooks.get(endpoint))
    complete(sdk.webhooks.update(endpoint, description="ours"))
    complete(sdk.webhooks.test(endpoint))
    complete(sdk.webhooks.delete(endpoint))


def test_every_endpoint(
    sdk: Commet, complete: Complete, server: StandIn, webhooks: Receiver
) -> None:
    """None is left out, and none answers with a field too many, too few or of another type."""
    _catalogue(sdk, complete)
    _customers(sdk, complete)
    _subscriptions(sdk, complete, server)
    _usage(sdk, complete)
    _bad_times(sdk, complete, server)
    _payments(sdk, complete, server)
    _webhooks(sdk, complete, webhooks.url)
    seen = {(entry["method"], entry["path"]) for entry in server.control.requests()}
    missed = [
        (method, path)
        for method, path, _ in ROUTES
        if not any(m == method and _fits(path, p) for m, p in seen)
    ]
    assert missed == []


def _fits(template: str, path: str) -> bool:
    pattern = re.sub(r"\{\w+\}", "(?!active$|batch$|charge$)[^/]+", template)
    return re.fullmatch(pattern, path) is not None
