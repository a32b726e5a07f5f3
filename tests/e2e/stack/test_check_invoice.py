"""docs/check_invoice.py: the export of the ledger held against Commet's invoice."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from local.stack import LocalStack
from tests.e2e.stack.conftest import Person
from tests.unit.markdown import ROOT

SCRIPT = ROOT / "docs" / "check_invoice.py"

Subscribe = Callable[..., dict[str, Any]]
Check = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def check(stack: LocalStack) -> Check:
    """Runs the script on an invoice; its exit status, and what it printed."""

    def run(invoice: str, *period: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, SCRIPT, invoice, *period],
            env=os.environ
            | {
                "API": stack.api,
                "KEY": stack.service_key,
                "COMMET": stack.commet,
                "COMMET_KEY": stack.commet_api_key,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    return run


@pytest.fixture
def upgrade(stack: LocalStack) -> Iterator[Callable[[Person, str, str], str]]:
    """Moves a person to another plan at Commet, and waits until that is known here.

    Returns the id of the invoice.
    """
    headers = {"x-api-key": stack.commet_api_key}
    with httpx.Client(base_url=stack.commet, trust_env=False, headers=headers) as commet:

        def to(person: Person, subscription: str, plan: str) -> str:
            person.http.post("/portal", json={})  # delivers all usage, for two seconds at most
            used = person.http.get("/dashboard").json()["usage"][0]["used"]
            access = f"/feature-access/storage?customerId={person.id}"
            until = time.monotonic() + 20
            while str(commet.get(access).json()["consumption"]["unitsUsed"]) != used:
                assert time.monotonic() < until
                time.sleep(0.1)
            path = f"/subscriptions/{subscription}/change-plan"
            answer = commet.post(path, json={"newPlanId": plan})
            assert answer.status_code == 200, answer.text
            until = time.monotonic() + 20
            while person.http.get("/dashboard").json()["subscription"]["plan"]["id"] != plan:
                assert time.monotonic() < until
                time.sleep(0.1)
            return str(answer.json()["invoiceId"])

        yield to


def report(backend: httpx.Client, person: Person, quantity: str, key: str) -> None:
    event = {
        "user_id": person.id, "feature": "storage", "quantity": quantity, "idempotency_key": key,
    }  # fmt: skip
    answer = backend.post("/usage", json=event)
    assert answer.status_code == 202, answer.text


def test_after_a_plan_change_on_the_same_day(
    person: Person,
    subscribe: Subscribe,
    backend: httpx.Client,
    upgrade: Callable[[Person, str, str], str],
    check: Check,
) -> None:
    """Only what was used on the first plan is on the invoice; a correction of it shows."""
    subscription = subscribe(person)["subscription"]["id"]
    report(backend, person, "120.55", "before")
    invoice = upgrade(person, subscription, "pln_usagemax")
    report(backend, person, "30", "afterwards")
    status, found = check(invoice)
    period = found["period"]
    assert (status, found["differs"]) == (0, False)
    assert found["features"] == [
        {"feature": "storage", "used": "120.55", "included": 100, "expected": 206, "billed": 206}
    ]
    entries = backend.get("/usage/events", params={"user_id": person.id}).json()["events"]
    assert [e["period"]["plan_id"] for e in entries] == ["pln_usagepro", "pln_usagemax"]
    assert entries[0]["period"]["id"] == period != entries[1]["period"]["id"]

    correction = {
        "user_id": person.id, "feature": "storage", "quantity": "-10", "idempotency_key": "fix",
        "reason": "counted twice", "corrects": "before",
    }  # fmt: skip
    answer = backend.post("/usage/corrections", json=correction).json()
    assert answer["needs_credit"]["quantity"] == "10"
    status, found = check(invoice)
    assert (status, found["differs"]) == (1, True)
    (storage,) = found["features"]
    assert (storage["expected"], storage["billed"]) == (106, 206)
    assert check(invoice, entries[1]["period"]["id"])[1]["period"] == entries[1]["period"]["id"]


class TestBilledPeriod:
    """Which period an invoice bills."""

    @pytest.fixture(scope="class")
    @staticmethod
    def script() -> Any:
        spec = importlib.util.spec_from_file_location("check_invoice", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def entry(self, period: str, start: str, end: str, booked_at: str) -> dict[str, Any]:
        return {
            "booked_at": f"2026-{booked_at}:00Z",
            "period": {"id": period, "start": f"2026-{start}T00:00Z", "end": f"2026-{end}T00:00Z"},
        }

    @pytest.mark.parametrize(
        ("begins", "issued", "period"),
        [
            ("10-01", "10-01T00:05", "9"),  # a renewal, though usage of October came before it
            ("09-10", "09-10T12:00", "8"),  # the first change of plan on the 10th
            ("09-10", "09-10T18:00", "10"),  # the second one
            ("08-10", "08-10T00:00", None),  # the first invoice of all
        ],
    )
    def test_of_an_invoice(self, script: Any, begins: str, issued: str, period: str | None) -> None:
        entries = [
            self.entry("8", "08-10", "09-30", "09-10T11:00"),
            self.entry("10", "09-10", "10-10", "09-10T13:00"),
            self.entry("9", "09-01", "10-01", "09-30T23:00"),
            self.entry("11", "10-01", "11-01", "10-01T00:01"),
        ]
        invoice = {"periodStart": f"2026-{begins}T00:00Z", "issueDate": f"2026-{issued}:00Z"}
        assert script.billed_period(invoice, entries) == period
