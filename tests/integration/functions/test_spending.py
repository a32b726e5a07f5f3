"""The spending ceiling through the front door: what is refused, and who sets the limit."""

from typing import Any

import pytest

from billing.database.connection import Database
from tests.integration.billing.conftest import NOW, Subscribe, grant_feature
from tests.integration.functions.calling import Answer
from tests.integration.functions.calling import call as call_by_session
from tests.integration.functions.test_api import counted, signed_up
from tests.integration.functions.test_track_usage import (  # noqa: F401 - one is a fixture
    KEYS,
    call,
    clock,
    correct,
    reserve,
    usage,
)

pytestmark = pytest.mark.handlers

REFUSED = (402, "spend_limit_reached")


def report(quantity: str, key: str) -> tuple[int, str | None]:
    answer = call("POST", "/usage", usage(quantity, key=key))
    return answer.status, None if answer.status == 202 else answer.code


def limit(user: str, amount: str | None, *, scope: str = "billing:manage") -> Answer:
    return call("PUT", f"/users/{user}/spend-limit", {"amount": amount}, key=KEYS[scope])


def check(quantity: str) -> dict[str, Any]:
    body = {"user_id": "usr_ana", "feature": "storage", "quantity": quantity}
    answer: dict[str, Any] = call("POST", "/usage/check", body).json
    return answer


class TestCeiling:
    def test_every_way_to_use(
        self, subscribe: Subscribe, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """5,100 units cost 500 dollars: the ceiling, for reports, batches, holds, corrections."""
        subscribe()
        assert report("5000000", "a") == REFUSED
        assert report("5099", "b") == (202, None)
        assert report("2", "c") == REFUSED
        (verdict,) = call("POST", "/usage", {"events": [usage("2", key="d")]}).json["results"]
        assert (verdict["status"], verdict["code"]) == ("refused", "spend_limit_reached")
        held = reserve(quantity="2")
        assert (held.status, held.code) == REFUSED
        more = correct("2")
        assert (more.status, more.code) == REFUSED
        assert report("1", "e") == (202, None)
        assert "UsagePriceUnknown" not in counted(capsys)

    def test_a_check_tells_it(self, subscribe: Subscribe) -> None:
        """What it would cost, what is spent, and whose limit it is."""
        subscribe()
        assert report("5000", "a") == (202, None)
        found = check("101")
        assert (found["allowed"], found["code"]) == (False, "spend_limit_reached")
        assert (found["overage_quantity"], found["cost"]) == ("101", "10.10")
        assert found["spending"] == {
            "spent": "490.00", "limit": "500.00", "set_by": "default", "currency": "usd",
        }  # fmt: skip
        assert check("100")["allowed"] is True

    def test_past_due(self, subscribe: Subscribe) -> None:
        """What is included, and no more."""
        subscribe(status="past_due")
        assert report("100", "a") == (202, None)
        assert report("1", "b") == (402, "payment_overdue")

    def test_a_price_that_nobody_told_rings(
        self, subscribe: Subscribe, capsys: pytest.CaptureFixture[str]
    ) -> None:
        subscribe(unit_price=None)
        assert report("101", "a") == (402, "price_unknown")
        assert counted(capsys)["UsagePriceUnknown"] == 1


class TestLimits:
    def test_by_the_product(self, subscribe: Subscribe) -> None:
        """Above the default and below it, with the scope for it; the dashboard shows it."""
        subscribe()
        assert limit("usr_ana", "1000.00").json["spending"]["limit"] == "1000.00"
        assert report("9000", "a") == (202, None)
        lowered = limit("usr_ana", "1").json["spending"]
        assert (lowered["spent"], lowered["limit"], lowered["set_by"]) == (
            "890.00", "1.00", "product",
        )  # fmt: skip
        assert report("1", "b") == REFUSED
        shown = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"]).json["spending"]
        assert shown == lowered
        assert limit("usr_ana", None).json["spending"]["set_by"] == "default"

    def test_who_may(self, subscribe: Subscribe) -> None:
        """A key without the scope may not, and there has to be such a user."""
        subscribe()
        assert limit("usr_ana", "1", scope="usage:write").code == "missing_scope"
        assert limit("usr_nobody", "1").code == "unknown_user"

    @pytest.mark.parametrize("amount", ["-1", "1.001", "ten", "1e9", "1000000000"])
    def test_wrong_amounts(self, subscribe: Subscribe, amount: str) -> None:
        subscribe()
        assert limit("usr_ana", amount).status == 422

    def test_by_the_user(self, db: Database) -> None:
        """Only one's own, and at most what applies without it."""
        person = signed_up().json
        token, user = person["session"]["token"], person["user"]["id"]
        grant_feature(db, user, "storage")
        db.execute(
            "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
            " values (%s, 'sub_1', %s, %s + interval '9 days')",
            [user, NOW, NOW],
        )
        own = call_by_session("PUT", "/spend-limit", {"amount": "20"}, token=token)
        assert (own.json["spending"]["limit"], own.json["spending"]["set_by"]) == ("20.00", "user")
        above = call_by_session("PUT", "/spend-limit", {"amount": "500.01"}, token=token)
        assert (above.status, above.json["errors"][0]["code"]) == (422, "above_ceiling")
        path = f"/users/{user}/spend-limit"
        others = call_by_session("PUT", path, {"amount": None}, token=token)
        assert others.code == "service_key_required"
