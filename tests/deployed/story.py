"""What people do with the deployed stack: the demo's story, and the faults that alarms wait for."""

import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
from rich.console import Console

from local import demo
from tests.deployed.commet import Commet
from tests.deployed.errors import Failed
from tests.deployed.front import Front
from tests.deployed.places import LOGS

SERVICE_KEY = f"svc_shop_{secrets.token_hex(32)}"
_PATIENCE_SECONDS = 120.0
# More than any limit of sign-ups or sign-ins that the test sets.
_TRIES = 60
# One for each function that the test calls by HTTP.
_FIRST_CALLS = (
    ("GET", "/plans"),
    ("GET", "/users/nobody/dashboard"),
    ("GET", "/events?limit=1"),
    ("POST", "/signup"),
    ("POST", "/login"),
    ("POST", "/portal"),
    ("POST", "/usage"),
)


class _WithinAMonth(demo.Story):
    """The story until the cancellation, so that Commet's clock stays at today's date."""

    def tell(self) -> None:
        self._sign_up()
        self._see_plans()
        self._use_before_paying()
        self._pay(self._check_out())
        self._get_access()
        self._use()
        self._see_cost()
        self._delivered()
        self._cancel()


def tell(
    front: Front,
    commet: Commet,
    invoke: Callable[..., None],
    *,
    schedules_fire: bool = False,
    to_the_last_bill: bool = False,
) -> None:
    """Plays the story. `invoke` runs a function. Raises Failed.

    With `schedules_fire`, scheduled functions run when their schedules say so, and only then.
    """

    def confirm(user_id: str) -> None:
        why = {"author": "story", "note": "nobody reads mail here"}
        invoke("SendMailFunction", {"command": "verify_address", "user": user_id, **why})

    addresses = demo.Addresses(
        front.api_address, commet.base_url, commet.api_key, SERVICE_KEY, confirm=confirm
    )
    run_schedule = (lambda _: None) if schedules_fire else invoke
    kind = demo.Story if to_the_last_bill else _WithinAMonth
    with (LOGS / "stories.log").open("a", encoding="utf-8") as log:
        console = Console(file=log, width=150, highlight=False)
        story = kind(addresses, console, _PATIENCE_SECONDS, run_schedule)
        try:
            story.tell()
        except (demo.StepFailed, httpx.HTTPError, LookupError, TypeError, ValueError) as error:
            raise Failed(
                f"the story is not as told: {str(error) or repr(error)} (see {log.name})"
            ) from error
        finally:
            story.close()


class People:
    """Single requests at the stack's two front doors."""

    def __init__(self, front: Front, webhook_url: str) -> None:
        self._api = httpx.Client(base_url=front.api_address, timeout=60, trust_env=False)
        self._url = httpx.Client(
            base_url=front.address,
            timeout=60,
            trust_env=False,
            headers={"Host": httpx.URL(webhook_url).host},
        )

    def close(self) -> None:
        """Closes all connections."""
        self._api.close()
        self._url.close()

    def warm_up(self) -> None:
        """Has every function that answers HTTP started once. Raises Failed.

        A start counts as the function's own time, which is not enough on a busy machine.
        """
        key = {"authorization": f"Bearer {SERVICE_KEY}"}
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for method, path in _FIRST_CALLS:
            while (answer := self._api.request(method, path, headers=key)).status_code >= 500:
                if time.monotonic() > deadline:
                    raise Failed(f"{method} {path} answers {answer.status_code}: {answer.text}")

    def release(self) -> str:
        """What the API says about an unknown address. Each release says something else."""
        return str(self._expect(self._api.get("/nothing-here"), 404)["title"])

    def health(self) -> int:
        """The status of the health check, which asks the database."""
        return self._api.get("/health").status_code

    def users(self) -> int:
        """The status of a request by the product that reads from the database."""
        key = {"authorization": f"Bearer {SERVICE_KEY}"}
        return self._api.get("/users/nobody/dashboard", headers=key).status_code

    def events(self, after: int) -> dict[str, dict[str, object]]:
        """The log's events after a place, by id. Raises Failed."""
        key = {"authorization": f"Bearer {SERVICE_KEY}"}
        found: dict[str, dict[str, object]] = {}
        while True:
            asked = {"after": after, "limit": 1000}
            answer = self._api.get("/events", params=asked, headers=key)
            page: Any = self._expect(answer, 200)
            found |= {event["id"]: event for event in page["events"]}
            after = page["next_after"]
            if not page["events"]:
                return found

    def check_cors(self, origin: str) -> None:
        """A page of this origin may call the API, and no other may. Raises Failed."""
        for asked, allowed in ((origin, True), ("https://elsewhere.example", False)):
            headers = {"origin": asked, "access-control-request-method": "POST"}
            answer = self._api.options("/usage", headers=headers)
            if (answer.headers.get("access-control-allow-origin") == asked) != allowed:
                raise Failed(f"a page of {asked} got {dict(answer.headers)}")

    def send_webhook(self, body: bytes, secret: str, status: int, *, to_api: bool = False) -> None:
        """Sends what Commet might send. Raises Failed where the answer has another status."""
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"content-type": "application/json", "x-commet-signature": signature}
        if to_api:
            answer = self._api.post("/webhooks/commet", content=body, headers=headers)
        else:
            answer = self._url.post("/", content=body, headers=headers)
        if answer.status_code != status:
            raise Failed(f"a webhook was answered {answer.status_code}: {answer.text[:300]}")

    def cause_alarms(self, commet: Commet, webhook_secret: str) -> None:
        """Does what the alarms on people and webhooks wait for. Raises Failed."""
        event = {"id": f"whev_{uuid.uuid4().hex}", "event": "x", "mode": "sandbox", "data": {}}
        self.send_webhook(json.dumps(event).encode(), webhook_secret, 200)
        event["id"] = f"whev_{uuid.uuid4().hex}"
        self.send_webhook(json.dumps(event).encode(), webhook_secret, 200, to_api=True)
        self.send_webhook(b"{}", "whsec_of_somebody_else", 401)
        self.send_webhook(b"this is no JSON", webhook_secret, 200)
        self.send_webhook(b" " * (2 * 1024 * 1024), webhook_secret, 413)
        login = {"email": f"eve-{time.time_ns()}@example.com", "password": "a wrong guess at it"}
        self._until_refused(lambda _: self._api.post("/login", json=login))
        self._until_refused(
            lambda number: self._api.post(
                "/signup", json=login | {"email": f"eve-{number}-{time.time_ns()}@example.com"}
            )
        )
        made = commet.inside("GET", "/payments")["transactions"]
        transaction = next(each for each in made if each["invoice_id"])
        for name in ("payment.failed", "payment.refunded", "payment.disputed"):
            commet.inside("POST", "/events", {"event": name, "about": transaction["id"]})
        invoice = transaction["invoice_id"]
        commet.inside("POST", "/events", {"event": "invoice.voided", "about": invoice})
        commet.inside("POST", "/settle?timeout=60")

    def _until_refused(self, call: Callable[[int], httpx.Response]) -> None:
        for number in range(_TRIES):
            answer = call(number)
            if answer.status_code == 429:
                return
        raise Failed(f"{answer.request.url.path} was never refused: {answer.status_code}")

    @staticmethod
    def _expect(answer: httpx.Response, status: int) -> dict[str, object]:
        if answer.status_code != status:
            raise Failed(f"{answer.request.url} answered {answer.status_code}: {answer.text[:300]}")
        body: dict[str, object] = answer.json()
        return body
