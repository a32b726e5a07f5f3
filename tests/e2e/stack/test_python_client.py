"""The Python client in a product's backend, on the whole stack."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from local.stack import LocalStack
from standin.testing import Control
from usage_billing import AsyncBilling, Billing, Problem, Refused, Usage

CLIENT = Path(__file__).parents[3] / "clients" / "python"


@pytest.fixture
def billing(stack: LocalStack) -> Iterator[Billing]:
    with Billing(stack.api, stack.service_key) as client:
        yield client


def registered(billing: Billing) -> str:
    user = billing.register(f"customer:{uuid4().hex}", f"{uuid4().hex}@example.com", "Ana")
    assert user.name == "Ana"
    return user.id


@pytest.fixture
def customer(billing: Billing, commet: Control) -> str:
    """A user of the product who has paid for `usage_pro` a moment ago."""
    user_id = registered(billing)
    checkout = billing.check_out(user_id, "usage_pro")
    assert checkout.url
    commet.pay(checkout.subscription_id)
    return user_id


def test_from_the_first_report_to_the_ledger(billing: Billing, customer: str) -> None:
    """Reports right after the payment wait for the webhook."""
    began = datetime.now(UTC) - timedelta(minutes=1)
    assert billing.report(customer, "storage", "1.5", key="upload-1").status == "accepted"
    assert billing.report(customer, "storage", "1.5", key="upload-1").status == "duplicate"
    with pytest.raises(Problem) as conflict:
        billing.report(customer, "storage", "2", key="upload-1")
    assert conflict.value.code == "idempotency_conflict"

    verdicts = billing.report_all(
        [
            Usage(customer, "storage", Decimal("0.25"), properties={"bucket": "a"}),
            Usage(customer, "no_such_feature"),
            Usage("nobody", "storage"),
        ]
    )
    assert [each.code for each in verdicts] == [None, "feature_not_in_plan", "unknown_user"]

    with billing.reserve(customer, "storage", 10, key="job-1") as reservation:
        assert reservation.held.quantity == 10
        reservation.confirm("7.25")
    with pytest.raises(ZeroDivisionError), billing.reserve(customer, "storage", 10, key="job-2"):
        1 / 0  # noqa: B018
    corrected = billing.correct(customer, "storage", "-0.5", "counted twice", corrects="upload-1")
    assert corrected.used == Decimal("8.5")
    assert corrected.needs_credit is None

    checked = billing.check(customer, "storage", "40")
    assert checked.allowed
    assert checked.remaining == Decimal("91.5")  # nothing is held
    assert checked.spending
    assert checked.spending.spent == 0

    entries = list(billing.ledger(customer, "storage", since=began, page_size=1))
    assert [(each.kind, each.quantity) for each in entries] == [
        ("event", Decimal("1.5")),
        ("event", Decimal("0.25")),
        ("confirm", Decimal("7.25")),
        ("correction", Decimal("-0.5")),
    ]
    assert entries[1].properties == {"bucket": "a"}
    (usage,) = [u for u in billing.dashboard(customer)["usage"] if u["feature"] == "storage"]
    assert Decimal(usage["used"]) == sum(each.quantity for each in entries)


def test_billing_for_a_user(billing: Billing, customer: str) -> None:
    billing.report(customer, "storage", 1)  # access is there
    assert billing.portal(customer).startswith("http")
    assert len(list(billing.invoices(customer))) == 1
    spending = billing.limit_spending(customer, "25")
    assert spending
    assert (spending.limit, spending.set_by) == (Decimal(25), "product")
    assert billing.cancel(customer).cancel_at_period_end
    assert not billing.keep(customer).cancel_at_period_end
    with pytest.raises(Problem) as nothing:
        billing.recovery(customer)
    assert nothing.value.code == "nothing_to_recover"
    change = billing.check_out(customer, "usage_max").change
    assert change
    assert change["state"] == "preview"
    assert billing.cancel(customer, immediate=True).ends_at
    assert {plan["code"] for plan in billing.plans()} >= {"usage_pro", "usage_max"}


def test_who_has_not_paid_is_refused(billing: Billing) -> None:
    user_id = registered(billing)
    with pytest.raises(Refused) as refused:
        billing.report(user_id, "storage", 1)
    assert (refused.value.status, refused.value.code) == (402, "subscription_required")
    assert refused.value.request_id
    billing.erase(user_id)


def test_asyncio(stack: LocalStack, customer: str) -> None:
    async def story() -> list[Decimal]:
        async with AsyncBilling(stack.api, stack.service_key) as billing:
            await billing.report(customer, "storage", "0.125")
            async with await billing.reserve(customer, "storage", 3) as reservation:
                await reservation.confirm(2)
            return [entry.quantity async for entry in billing.ledger(customer)]

    assert asyncio.run(story()) == [Decimal("0.125"), Decimal(2)]


def test_the_example_of_its_page(
    stack: LocalStack, commet: Control, backend: httpx.Client, tmp_path: Path
) -> None:
    """As printed, in a process of its own; the customer pays in between."""
    page = (CLIENT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    lines = example.splitlines(keepends=True)
    (paying,) = [n for n, line in enumerate(lines) if "print(checkout.url)" in line]
    wait = "input()\n"  # until the test has paid
    (tmp_path / "example.py").write_text(
        "".join([*lines[: paying + 1], wait, *lines[paying + 1 :]])
    )
    environment = os.environ | {
        "BILLING_URL": stack.api,
        "BILLING_KEY": stack.service_key,
        "PYTHONPATH": str(CLIENT),
        "PYTHONUNBUFFERED": "1",
    }
    with subprocess.Popen(
        [sys.executable, tmp_path / "example.py"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("http")
        board = backend.get("/users/customer-17/dashboard").json()
        commet.pay(board["subscription"]["id"])
        out, _ = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert Decimal(out) == Decimal("91.25")
