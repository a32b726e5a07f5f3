"""Changes of plan and cancellations when the mirror is late, or an answer was lost."""

from typing import Any

import httpx
import pytest

from billing import wiring
from standin.testing import Receiver, StandIn
from tests.integration.functions.calling import Answer, call
from tests.integration.functions.test_api import environment, signed_up  # noqa: F401
from tests.integration.functions.test_debts import KEY, _shop, box, remote  # noqa: F401
from tests.integration.functions.test_plan_changes import Person as Changing
from tests.integration.functions.test_plan_changes import asked

pytestmark = pytest.mark.handlers


class Person(Changing):
    def ask(self, method: str, path: str, **fields: Any) -> Answer:
        return call(method, path, None if method == "GET" else fields, token=self._token)

    def at_commet(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = httpx.request(
            method,
            f"{self._remote.base_url}{path}",
            headers={"x-api-key": self._remote.api_key},
            json=body,
            trust_env=False,
        )
        answer.raise_for_status()
        return answer.json()

    def correct(self, quantity: int, key: str) -> Answer:
        body = {
            "user_id": self.id,
            "feature": "storage",
            "quantity": quantity,
            "idempotency_key": key,
            "reason": "wrong",
        }
        return call("POST", "/usage/corrections", body, token=KEY)

    def state(self) -> dict[str, Any]:
        [found] = [
            s for s in self._remote.control.state()["subscriptions"] if s["id"] == self.subscription
        ]
        state: dict[str, Any] = found
        return state


@pytest.fixture
def person(remote: StandIn, box: Receiver) -> Person:  # noqa: F811
    return Person(remote, box)


def _moved(person: Person) -> str:
    """Commet's dashboard gives the customer to Ben; the webhooks are late."""
    ben = str(signed_up().json["user"]["id"])
    customer = wiring.database().value(
        "select commet_customer_id from users where id = %s", [person.id]
    )
    person.at_commet("PATCH", f"/customers/{customer}", {"externalId": ben})
    person.lose()
    return ben


class TestMoved:
    def test_the_former_user_cancels(self, person: Person) -> None:
        _moved(person)
        person.ask("POST", "/subscription/cancel", immediate=True)
        assert person.state()["status"] == "active"

    def test_the_former_user_keeps(self, person: Person) -> None:
        person.at_commet("POST", f"/subscriptions/{person.subscription}/cancel", {})
        person.hear()
        _moved(person)
        person.ask("POST", "/subscription/keep")
        assert person.state()["cancellation"] is not None

    def test_the_former_user_upgrades(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        confirmation = person.change("usage_max").json["change"]["confirmation"]
        _moved(person)
        person.change("usage_max", confirmation)
        assert asked(remote) == []


class TestLostConfirmation:
    def _lost(self, person: Person, remote: StandIn) -> str:  # noqa: F811
        """Commet never got the call."""
        change = person.change("usage_pro", billing_interval="yearly").json["change"]
        remote.control.fault(
            match={"path": "*/change-plan"}, action={"reset": "before"}, times=None
        )
        lost = person.change("usage_pro", change["confirmation"], billing_interval="yearly")
        assert lost.status in {502, 503}
        remote.control.clear_faults()
        return str(change["confirmation"])

    def test_is_not_performed_after_another_change(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        lost = self._lost(person, remote)
        other = person.change("usage_max").json["change"]["confirmation"]
        assert person.change("usage_max", other).status == 200
        wiring.database().execute("update plan_change set expires_at = now() where id = %s", [lost])
        late = person.change("usage_pro", lost, billing_interval="yearly")
        assert person.state()["plan_id"] == "pln_usagemax", late.json
        assert late.status == 409

    def test_is_not_performed_once_it_is_over(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        lost = self._lost(person, remote)
        wiring.database().execute("update plan_change set expires_at = now() where id = %s", [lost])
        late = person.change("usage_pro", lost, billing_interval="yearly")
        assert (late.status, late.code) == (409, "confirmation_expired")
        assert person.state()["billing_interval"] == "monthly"

    def test_delivers_what_was_used_since(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        lost = self._lost(person, remote)
        assert person.use(130).status == 202
        done = person.change("usage_pro", lost, billing_interval="yearly")
        assert done.status == 200
        assert len(remote.control.requests(method="POST", path="/usage/events")) == 1


class TestLowered:
    @pytest.mark.parametrize("how", ["cancel", "upgrade"])
    def test_bills_what_was_used(self, person: Person, how: str) -> None:
        """Commet's total may lag for a minute, so whoever is faster is asked to wait."""
        assert person.use(150).status == 202
        person.deliver()
        assert person.correct(-50, "c1").status == 202
        shown = person.change("usage_max").json["change"]

        def leave() -> Answer:
            if how == "cancel":
                return person.ask("POST", "/subscription/cancel", immediate=True)
            return person.change("usage_max", shown["confirmation"])

        assert leave().code == "usage_pending"
        wiring.database().execute(
            "update usage_delivery set sent_at = sent_at - interval '2 minutes',"
            " answered_at = answered_at - interval '2 minutes'"
        )
        assert leave().status == 200
        [latest, *_] = person.ask("GET", "/invoices").json["invoices"]
        lines = person.ask("GET", f"/invoices/{latest['id']}").json["lines"]
        assert [x["amount"] for x in lines if x["type"] == "feature_overage"] == []


class TestCancel:
    def test_says_200_only_if_it_canceled(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        person.at_commet(
            "POST", f"/subscriptions/{person.subscription}/cancel", {"immediate": True}
        )
        made = person.at_commet(
            "POST", "/subscriptions", {"customerId": person.id, "planCode": "usage_pro"}
        )
        remote.control.pay(made["id"])
        person.lose()
        answer = person.ask("POST", "/subscription/cancel")
        found = person.at_commet("GET", f"/subscriptions/{made['id']}")
        assert answer.status != 200 or found["cancelAtPeriodEnd"], answer.json

    def test_asks_before_it_refuses(self, person: Person) -> None:
        """The user was in the portal a minute ago, and bought again; the webhook is late."""
        assert person.ask("POST", "/subscription/cancel", immediate=True).status == 200
        person.hear()
        assert person.ask("POST", "/portal").status == 201
        person.at_commet("POST", f"/subscriptions/{person.subscription}/reactivate", {})
        person.lose()
        answer = person.ask("POST", "/subscription/cancel")
        assert answer.status == 200, answer.json

    def test_now_has_ended_now(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        ended = person.ask("POST", "/subscription/cancel", immediate=True).json["subscription"]
        assert ended["ends_at"] <= remote.control.now().isoformat().replace("+00:00", "Z")


class TestPreview:
    def test_thirty_at_the_pace_of_a_person(self, person: Person) -> None:
        statuses = []
        for _ in range(12):
            statuses.append(person.change("usage_max").status)
            wiring.database().execute(
                "update users set asked_at = asked_at - interval '20 s', "
                "answered_at = answered_at - interval '20 s'"
            )
            wiring.database().execute(
                "update subscriptions set checked_at = checked_at - interval '20 s'"
            )
        assert statuses == [200] * 12

    def test_over_midnight(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        now = remote.control.now()
        remote.control.advance(
            seconds=86400 - 120 - (now.hour * 3600 + now.minute * 60 + now.second)
        )
        person.sign_in()
        shown = person.change("usage_max").json["change"]
        remote.control.advance(seconds=240)
        done = person.change("usage_max", shown["confirmation"])
        assert done.status == 409 or done.json["change"]["due_now"] == shown["due_now"], (
            shown["due_now"],
            done.json["change"]["due_now"],
        )

    def test_a_charge_under_way(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        shown = person.change("usage_max").json["change"]
        remote.control.fault(
            match={"path": "*/change-plan"}, action={"code": "charge_in_progress"}, times=1
        )
        first = person.change("usage_max", shown["confirmation"])
        second = person.change("usage_max", shown["confirmation"])
        assert (first.status, second.status) == (409, 200), (first.json, second.json)

    def test_confirmations_have_a_limit(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        shown = person.change("usage_max").json["change"]
        assert person.use(30).status == 202
        remote.control.fault(match={"path": "/usage/events"}, action={"status": 500}, times=None)
        before = len(remote.control.requests())
        statuses = {person.change("usage_max", shown["confirmation"]).status for _ in range(60)}
        assert 429 in statuses, (statuses, len(remote.control.requests()) - before)

    def test_declined_charges(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        remote.control.set_card(person.id, charge_failure="card_declined")
        for _ in range(30):
            shown = person.change("usage_max")
            if shown.status != 200:
                break
            person.change("usage_max", shown.json["change"]["confirmation"])
        assert len(asked(remote)) <= 10

    def test_downgrade_in_another_currency(
        self, person: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wiring.plan_changes(), "_currency", "eur")  # the subscription: usd
        assert person.change("free").json["change"]["currency"] == "usd"


class TestInvoices:
    def test_a_cursor_that_is_nonsense(self, person: Person) -> None:
        answer = person.ask("GET", "/invoices?cursor=nonsense")
        assert answer.status < 500, answer.json


class TestRefusalThatNobodyKnows:
    """`raise error from error` makes an error its own cause, and place_of() follows causes."""

    @pytest.mark.parametrize("code", ["missing_regional_price", "unauthorized"])
    def test_of_a_preview(self, person: Person, remote: StandIn, code: str) -> None:  # noqa: F811
        remote.control.fault(match={"path": "*/preview-change"}, action={"code": code}, times=None)
        assert person.change("usage_max").status in {502, 503}

    def test_of_a_first_checkout(self, remote: StandIn) -> None:  # noqa: F811
        other = signed_up().json["session"]["token"]
        remote.control.fault(
            match={"path": "/subscriptions"}, action={"code": "missing_regional_price"}, times=None
        )
        assert call("POST", "/checkout", {"plan_code": "usage_pro"}, token=other).status == 502


class TestPending:
    def test_delivers_what_is_not_due(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        """Commet was down until a moment ago. flush() says: due or not."""
        assert person.use(130).status == 202
        remote.control.fault(match={"path": "/usage/events"}, action={"status": 500}, times=None)
        for _ in range(9):
            person.deliver()
            wiring.database().execute("update usage_delivery set due_at = now()")
        person.deliver()
        remote.control.clear_faults()
        waits = wiring.database().value(
            "select extract(epoch from max(due_at) - now())::int from usage_delivery"
        )
        answer = person.ask("POST", "/subscription/cancel", immediate=True)
        assert answer.status == 200, (waits, answer.headers.get("retry-after"), answer.json)


class TestMovedAndKept:
    def test_late_news_still_counts(self, person: Person, remote: StandIn) -> None:  # noqa: F811
        person.at_commet("POST", f"/subscriptions/{person.subscription}/cancel", {})
        person.hear()
        ben = signed_up().json
        customer = wiring.database().value(
            "select commet_customer_id from users where id = %s", [person.id]
        )
        person.at_commet("PATCH", f"/customers/{customer}", {"externalId": ben["user"]["id"]})
        remote.control.advance(seconds=2)
        person.ask("POST", "/subscription/keep")
        person.hear()
        for _ in range(3):
            person.run()
            wiring.database().execute(
                "update subscriptions set checked_at = checked_at - interval '1 hour'"
            )
        assert person.dashboard()["access"] is False
        assert call("GET", "/dashboard", token=ben["session"]["token"]).json["access"] is True


class TestLateMirror:
    def test_cancel_at_the_end_ends_nothing_at_once(
        self,
        person: Person,
        remote: StandIn,  # noqa: F811
    ) -> None:
        """The renewal was declined a second ago and the webhook is late."""
        remote.control.set_card(person.id, charge_failure="card_declined")
        remote.control.advance(days=31)
        person.lose()
        person.sign_in()
        assert person.use(130, "late").status == 202
        answer = person.ask("POST", "/subscription/cancel")
        assert (
            answer.status != 200
            or answer.json["subscription"]["status"] != "canceled"
            or (remote.control.requests(method="POST", path="/usage/events"))
        ), answer.json
