"""People who use the product: what they did before a page is read."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import httpx
from playwright.sync_api import BrowserContext

from local.stack import LocalStack
from standin.testing import Control
from tests.visitor import PASSWORD


class Member:
    """Somebody with an account. `http` is signed in as them."""

    def __init__(
        self, stack: LocalStack, commet: Control, http: httpx.Client, email: str, name: str
    ) -> None:
        self.stack, self.commet, self.http, self.email = stack, commet, http, email
        body = {"email": email, "password": PASSWORD} | ({"name": name} if name else {})
        answer = http.post("/signup", json=body)
        assert answer.status_code == 201, answer.text
        self.id = str(answer.json()["user"]["id"])
        stack.confirm_address(self.id)
        self.sign_in()

    def sign_in(self) -> None:
        """Begins a session. Each lasts for days, and the clock moves by months."""
        answer = self.http.post("/login", json={"email": self.email, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        self.http.headers["authorization"] = f"Bearer {answer.json()['session']['token']}"

    def enter(self, context: BrowserContext) -> None:
        """Signs the browser in."""
        context.clear_cookies()
        name, value = self.cookie().split("=", 1)
        context.add_cookies([{"name": name, "value": value, "url": self.stack.api}])

    def cookie(self) -> str:
        """Begins a session of a browser. Returns its cookie: name, "=" and value."""
        origin = {"origin": self.stack.api}
        form = {"email": self.email, "password": PASSWORD}
        answer = httpx.post(
            f"{self.stack.api}/app/login", data=form, headers=origin, timeout=60, trust_env=False
        )
        assert answer.status_code == 303, answer.text
        return answer.headers["set-cookie"].partition(";")[0]

    def subscribe(self, plan: str) -> None:
        """Takes a plan, and pays for it."""
        answer = self.http.post("/checkout", json={"plan_code": plan})
        assert answer.status_code == 201, answer.text
        if answer.json()["checkout_url"]:
            self.commet.pay(self.subscription)
        self.commet.settle()

    @property
    def subscription(self) -> str:
        found = self.commet.customer(self.id)["subscriptions"]
        return str(found[-1]["id"])

    def use(
        self, quantity: str, *, feature: str = "api_calls", key: str, region: str = "eu"
    ) -> int:
        """Uses the product. Returns the status of the answer: 202, or 402 at a limit."""
        event = {"feature": feature, "quantity": quantity, "idempotency_key": f"{self.id}-{key}"}
        return self.report([{**event, "properties": {"region": region}}])

    def report(self, events: Sequence[Mapping[str, object]]) -> int:
        """Reports usage of the own, as the product does. Returns the status of the answer."""
        mine = [{"user_id": self.id, **each} for each in events]
        body = mine[0] if len(mine) == 1 else {"events": mine}
        return self.product("POST", "/usage", body).status_code

    def product(self, method: str, path: str, body: object) -> httpx.Response:
        """Sends what the product's backend sends."""
        return httpx.request(
            method,
            f"{self.stack.api}{path}",
            json=body,
            headers={"authorization": f"Bearer {self.stack.service_key}"},
            timeout=60,
            trust_env=False,
        )

    def at_commet(self, method: str, path: str, **body: object) -> None:
        """Does something with the own subscription, by Commet's API."""
        answer = httpx.request(
            method,
            f"{self.stack.commet}/subscriptions/{self.subscription}{path}",
            json=body,
            headers={"x-api-key": self.stack.commet_api_key},
            timeout=60,
            trust_env=False,
        )
        assert answer.is_success, answer.text
        self.commet.settle()

    def pass_days(self, days: int) -> None:
        """Lets time pass, and waits until all that is due has been told."""
        self.commet.advance(days=days)
        with suppress(httpx.HTTPStatusError):  # a webhook that is still tried again
            self.commet.settle(timeout=30)
        self.sign_in()
