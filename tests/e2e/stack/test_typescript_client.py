"""The TypeScript client in a product's backend, on the whole stack."""

import json
import os
import re
import subprocess
from decimal import Decimal
from pathlib import Path

import httpx

from local.stack import LocalStack
from standin.testing import Control
from tests.node import tool

CLIENT = Path(__file__).parents[3] / "clients" / "typescript"

# What the example of the page leaves out.
REST = Path(__file__).with_name("typescript_client.mjs")


def test_the_example_of_its_page_and_the_rest(
    stack: LocalStack, commet: Control, backend: httpx.Client, tmp_path: Path
) -> None:
    """The example as printed, with another customer, who pays in between."""
    tool("tsc")  # skips where Node is too old
    page = (CLIENT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```ts\n(.*?)```", page, re.DOTALL)
    example = example.replace("customer-17", "customer-ts")
    head, paying, tail = re.split(r"(.*checkOut.*\n)", example)
    wait = (
        'await new Promise((paid) => process.stdin.once("data", paid));\nprocess.stdin.destroy();\n'
    )
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "usage-billing-client").symlink_to(CLIENT)
    (tmp_path / "story.mjs").write_text(
        head + paying + wait + tail + REST.read_text(encoding="utf-8"), encoding="utf-8"
    )
    with subprocess.Popen(
        ["node", "story.mjs"],
        cwd=tmp_path,
        env=os.environ | {"BILLING_URL": stack.api, "BILLING_KEY": stack.service_key},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("http")
        board = backend.get("/users/customer-ts/dashboard").json()
        commet.pay(board["subscription"]["id"])
        out, _ = process.communicate("paid\n", timeout=60)
    assert process.returncode == 0
    remaining, _, said = out.partition("\n")
    assert Decimal(remaining) == Decimal("91.25")
    assert json.loads(said) == {
        "codes": [None, "feature_not_in_plan"],
        "again": "duplicate",
        "conflict": "idempotency_conflict",
        "entries": [
            ["event", "1.5"],
            ["confirm", "7.25"],
            ["event", "0.25"],
            ["correction", "-0.5"],
        ],
        "invoices": 1,
        "limit": "25.00",
        "portal": True,
        "booked": [True, False],
        "change": "preview",
        "access": True,
        "plans": True,
    }
