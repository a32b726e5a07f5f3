"""What docs/usage.md tells a product's developer to paste, pasted in its order."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx

from local.stack import LocalStack
from standin.testing import Control

GUIDE = (Path(__file__).parents[3] / "docs" / "usage.md").read_text(encoding="utf-8")


def test_every_request_works_as_it_is_printed(stack: LocalStack, commet: Control) -> None:
    """Register, report, ask, hold, confirm, correct and read back, by nothing but the guide."""
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    commands = re.findall(r"^curl (?:.*\\\n)*.*", "\n".join(blocks), re.MULTILINE)
    environment = os.environ | {"API": stack.api, "KEY": stack.service_key}

    def paste(command: str) -> str:
        pasted = ["bash", "-c", command]
        return subprocess.run(
            pasted, env=environment, capture_output=True, text=True, check=True
        ).stdout

    def answer(command: str) -> Any:
        return json.loads(paste(command))

    register, report, ask, reserve, confirm, release, correct, read, read_csv = commands
    assert answer(register)["user"]["id"] == "customer-17"
    _subscribe(stack, commet, "customer-17")
    assert answer(report)["accepted"] == 1
    assert answer(report)["duplicates"] == 1
    assert answer(ask)["allowed"] is True
    held = answer(reserve)
    assert held["state"] == "held"
    environment["RESERVATION"] = held["id"]
    assert answer(confirm)["booked"] == "7.25"
    assert answer(release)["code"] == "reservation_confirmed"
    assert answer(correct)["used"] == "8.25"
    assert [(e["kind"], e["quantity"]) for e in answer(read)["events"]] == [
        ("event", "1.5"),
        ("confirm", "7.25"),
        ("correction", "-0.5"),
    ]
    assert paste(read_csv).startswith("booked_at,")


def _subscribe(stack: LocalStack, commet: Control, user: str) -> None:
    """At Commet itself, as a product does that has a checkout of its own."""
    with httpx.Client(
        base_url=stack.commet, headers={"x-api-key": stack.commet_api_key}, trust_env=False
    ) as client:
        for path, body in (
            ("/customers", {"id": user, "email": f"{user}@example.com"}),
            ("/subscriptions", {"customerId": user, "planCode": "usage_pro"}),
        ):
            made = client.post(path, json=body)
            assert made.is_success, made.text
    commet.pay(made.json()["id"])
    commet.settle()
