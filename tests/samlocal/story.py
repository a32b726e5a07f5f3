"""What is looked at once the page's servers run: the demo's story, and the function's own URL."""

import hashlib
import hmac
import json
import time
import uuid
from typing import Any

import boto3
import httpx
from rich.console import Console

from local import demo, sam_local
from tests.samlocal.errors import Failed

API = "http://127.0.0.1:3000"
COMMET = "http://127.0.0.1:3001"
LAMBDA = "http://127.0.0.1:3002"
FUNCTION_URL = "http://127.0.0.1:3003"
SECRETS = "http://127.0.0.1:5000"

_PATIENCE_SECONDS = 90.0
# One for each function that the story calls by HTTP, and what it answers a stranger.
_FIRST_CALLS = [
    ("GET", "/plans", 200),
    ("GET", "/dashboard", 401),
    ("POST", "/signup", 422),
    ("POST", "/login", 422),
    ("GET", "/portal", 401),
    ("POST", "/usage", 401),
    ("GET", "/webhooks/commet", 405),
]


def warm_up() -> None:
    """Has SAM CLI make each function's container, one after the other. Raises Failed.

    A call that makes one counts as the function's own time, which on a busy machine is not enough;
    and the calls that come while it is made wait for the same container.
    """
    deadline = time.monotonic() + len(_FIRST_CALLS) * _PATIENCE_SECONDS
    with httpx.Client(base_url=API, timeout=_PATIENCE_SECONDS, trust_env=False) as client:
        for method, path, status in _FIRST_CALLS:
            while (answer := client.request(method, path)).status_code != status:
                if answer.status_code < 500 or time.monotonic() > deadline:
                    raise Failed(f"{method} {path} answered {answer.status_code}, not {status}")


def tell(service_key: str) -> None:
    """The whole demo, its schedules fired by start-lambda. Raises Failed."""
    addresses = demo.Addresses(
        API, f"{COMMET}/api/v1", sam_local.COMMET_KEY, service_key, confirm=_confirm
    )
    console = Console(width=140, highlight=False)
    if demo.main(addresses, console, patience_seconds=_PATIENCE_SECONDS, run_schedule=_invoke):
        raise Failed("the story is not as told")


def check_webhooks() -> int:
    """How many webhooks the stand-in sent, each of which was accepted. Raises Failed."""
    answer = httpx.get(f"{COMMET}/_standin/deliveries", params={"limit": 1000}, trust_env=False)
    sent: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    lost = [each for each in sent if each["status"] != "delivered"]
    if lost or not sent:
        answers = [a["status"] for each in lost for a in each["attempts"]]
        raise Failed(f"{len(lost)} of {len(sent)} webhooks were not accepted: {answers}")
    return len(sent)


def check_function_url() -> None:
    """What is signed as Commet signs is taken there, and nothing else is. Raises Failed."""
    event = {"id": f"whev_{uuid.uuid4().hex}", "event": "x", "mode": "sandbox", "data": {}}
    body = json.dumps(event).encode()
    signature = hmac.new(_webhook_secret().encode(), body, hashlib.sha256).hexdigest()
    for given, status in ((signature, 200), ("0" * 64, 401)):
        answer = httpx.post(
            FUNCTION_URL,
            content=body,
            headers={"Content-Type": "application/json", "X-Commet-Signature": given},
            timeout=60,
            trust_env=False,
        )
        if answer.status_code != status:
            raise Failed(f"the function URL answered {answer.status_code}, not {status}")


def _webhook_secret() -> str:
    client = boto3.client(
        "secretsmanager",
        endpoint_url=SECRETS,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    kept = json.loads(client.get_secret_value(SecretId="local/webhook")["SecretString"])
    return str(kept["secrets"][0])


def _confirm(user_id: str) -> None:
    why = {"author": "story", "note": "nobody reads mail here"}
    _invoke("SendMailFunction", {"command": "verify_address", "user": user_id, **why})


def _invoke(function: str, event: dict[str, str] | None = None) -> None:
    path = f"/2015-03-31/functions/{function}/invocations"
    answer = httpx.post(f"{LAMBDA}{path}", json=event or {}, timeout=120, trust_env=False)
    if answer.status_code != 200 or "errorMessage" in answer.text:
        raise demo.StepFailed(f"{function} answered {answer.status_code}: {answer.text[:500]}")
