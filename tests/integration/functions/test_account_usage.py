"""A person's own usage over HTTP: by day, by property, entry by entry."""

import csv
import io
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from billing import wiring
from billing.accounts.limits import Limit
from billing.errors import TooManyRequests
from billing.http import usage_export, usage_sums
from functions.track_usage import app as track_usage
from tests.environments import forget
from tests.integration.billing.conftest import NOW, Subscribe
from tests.integration.functions.calling import Answer, call, service_key, start
from tests.issuer import AUDIENCE, Issuer, issuing

pytestmark = pytest.mark.handlers

KEY = "svc_app_" + "a" * 64
WITHOUT_READ = "svc_bill_" + "b" * 64


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(
    database_url: str, monkeypatch: pytest.MonkeyPatch, issuer: Issuer
) -> Iterator[None]:
    keys = [
        service_key("app", KEY, "usage:write", "usage:correct", "read"),
        service_key("billing", WITHOUT_READ, "billing:manage"),
    ]
    told = {"OIDC_ISSUER": issuer.url, "OIDC_AUDIENCE": AUDIENCE}
    start(monkeypatch, database_url, keys, told)
    monkeypatch.setattr(track_usage.metrics.provider, "namespace", "test")
    monkeypatch.setattr(wiring, "clock", lambda: lambda: NOW)
    yield
    forget()


class Person:
    """Somebody who has signed up and pays for `storage`."""

    def __init__(self, subscribe: Subscribe, token: str = "") -> None:
        email = f"{uuid4().hex}@example.com"
        if not token:
            answer = call("POST", "/signup", {"email": email, "password": "a long walk home"})
            token = answer.json["session"]["token"]
        self.token = token
        self.id: str = self.asks("/dashboard").json["user"]["id"]
        subscribe(self.id)

    def asks(self, path: str, accept: str = "*/*") -> Answer:
        return call("GET", path, token=self.token, accept=accept)

    def used(self, quantity: str, key: str, **more: Any) -> None:
        body = {"user_id": self.id, "feature": "storage", "quantity": quantity}
        answer = call("POST", "/usage", body | {"idempotency_key": key} | more, token=KEY)
        assert answer.status == 202, answer.text

    def corrected(self, quantity: str, key: str, **more: Any) -> None:
        body = {"user_id": self.id, "feature": "storage", "quantity": quantity, "reason": "wrong"}
        body |= {"idempotency_key": key} | more
        assert call("POST", "/usage/corrections", body, token=KEY).status == 202


@pytest.fixture
def ana(subscribe: Subscribe) -> Person:
    """Three reports on two days, a correction of the first one, and somebody else's usage."""
    person = Person(subscribe)
    person.used("1.5", "a", properties={"model": "small"})
    person.used("2.25", "b", properties={"model": "=large"}, occurred_at="2026-09-08T23:59:59Z")
    person.used("120.000001", "c")
    person.corrected("-0.5", "fix", corrects="b")
    Person(subscribe).used("7", "a", properties={"model": "small"})
    return person


def table(answer: Answer) -> list[dict[str, str]]:
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def short(answer: Answer) -> list[tuple[Any, ...]]:
    assert answer.status == 200, answer.text
    found = answer.json["sums"]
    return [(s["day"], s["value"], s["quantity"], s["corrected"]) for s in found]


class TestSums:
    def test_by_day(self, ana: Person) -> None:
        """Without any parameter: the days, to the last digit, with what each belongs to."""
        answer = ana.asks("/account/usage")
        assert short(answer) == [
            ("2026-09-08", None, "1.75", "-0.5"),
            ("2026-09-10", None, "121.500001", "0"),
        ]
        first = answer.json["sums"][0]
        assert first["period"] == {
            "id": first["period"]["id"], "start": "2026-09-01T00:00:00.000Z",
            "end": "2026-10-01T00:00:00.000Z", "subscription_id": f"sub_{ana.id}",
            "plan_id": None,
        }  # fmt: skip
        assert (first["feature"], first["late"]) == ("storage", "0")
        assert answer.json["next_cursor"] is None
        assert ana.asks("/account/usage?group_by=day").json == answer.json

    def test_by_property(self, ana: Person) -> None:
        """A correction has no properties, so it stands with the usage that has none."""
        assert short(ana.asks("/account/usage?group_by=property.model")) == [
            (None, "=large", "2.25", "0"),
            (None, "small", "1.5", "0"),
            (None, None, "119.500001", "-0.5"),
        ]

    def test_by_day_and_property(self, ana: Person) -> None:
        assert short(ana.asks("/account/usage?group_by=day,property.model")) == [
            ("2026-09-08", "=large", "2.25", "0"),
            ("2026-09-08", None, "-0.5", "-0.5"),
            ("2026-09-10", "small", "1.5", "0"),
            ("2026-09-10", None, "120.000001", "0"),
        ]

    def test_a_property_with_any_name(self, ana: Person) -> None:
        """Callers choose the names, so all that follows the dot is the name."""
        name = "day,property.x é&"
        ana.used("3", "odd", properties={name: "v"})
        asked = "day%2Cproperty.x+%C3%A9%26"
        found = short(ana.asks(f"/account/usage?group_by=property.{asked}"))
        assert found[0] == (None, "v", "3", "0")

    @pytest.mark.parametrize(
        "query", ["", "?group_by=property.model", "?group_by=day,property.model"]
    )
    def test_agrees_with_the_dashboard(self, ana: Person, query: str) -> None:
        """Both add up to what the dashboard says was used."""
        (storage,) = ana.asks("/dashboard").json["usage"]
        found = ana.asks(f"/account/usage{query}").json["sums"]
        assert sum(Decimal(s["quantity"]) for s in found) == Decimal(storage["used"])
        assert Decimal(storage["used"]) == Decimal("123.250001")

    def test_pages_show_the_same_sums(self, ana: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        """`page` gives what the route answers. Its sums by a property count in the limit, too."""
        monkeypatch.setattr(usage_sums, "BY_PROPERTY", Limit(2, timedelta(hours=1)))
        asked = usage_sums.Asked("property.model", "storage", None, None, None, 2, None)
        found = usage_sums.page(ana.id, asked)
        answer = ana.asks("/account/usage?group_by=property.model&feature=storage&limit=2")
        assert found.model_dump(mode="json") == answer.json
        assert len(found.sums) == 2
        assert found.next_cursor is not None
        with pytest.raises(TooManyRequests):
            usage_sums.page(ana.id, asked)

    def test_filters(self, ana: Person) -> None:
        """UTC days: the first is part of it, the last is not."""
        for days, dates in {
            "from=2026-09-08&to=2026-09-10": ["2026-09-08"],
            "from=2026-09-09": ["2026-09-10"],
            "to=2026-09-09": ["2026-09-08"],
            "feature=egress": [],
            "feature=storage&from=2026-09-10&to=2026-09-11": ["2026-09-10"],
        }.items():
            found = ana.asks(f"/account/usage?{days}").json["sums"]
            assert [s["day"] for s in found] == dates

    @pytest.mark.parametrize("form", ["json", "csv"])
    @pytest.mark.parametrize("group", ["day", "property.model", "day,property.model"])
    def test_page_by_page(self, ana: Person, form: str, group: str) -> None:
        """Following the Link header brings each sum once, with the parameters kept."""
        query = f"?limit=1&format={form}&group_by={group}"
        found: list[str] = []
        while query:
            answer = ana.asks(f"/account/usage{query}")
            sums = answer.json["sums"] if form == "json" else table(answer)
            assert len(sums) == 1
            found += [s["quantity"] for s in sums]
            link = answer.headers.get("link", "")
            assert not link or link.startswith("</account/usage?")
            query = link[link.find("?") : link.find(">")] if link else ""
        assert len(found) == {"day": 2, "property.model": 3, "day,property.model": 4}[group]
        assert sum(map(Decimal, found)) == Decimal("123.250001")

    def test_as_csv(self, ana: Person) -> None:
        """The same rows; what a spreadsheet would run as a formula is text."""
        answer = ana.asks("/account/usage?group_by=day,property.model", accept="text/csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="usage.csv"'
        first = table(answer)[0]
        assert first == {
            "day": "2026-09-08", "feature": "storage", "value": "'=large", "quantity": "2.25",
            "late": "0", "corrected": "0", "period_id": first["period_id"],
            "period_start": "2026-09-01T00:00:00.000000Z",
            "period_end": "2026-10-01T00:00:00.000000Z",
            "subscription_id": f"sub_{ana.id}", "plan_id": "",
        }  # fmt: skip

    @pytest.mark.parametrize("form", ["json", "csv"])
    def test_large_pages(self, ana: Person, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer that would be too large ends earlier, and the next goes on there."""
        monkeypatch.setattr(usage_export, "MAX_BYTES", 500)
        query, pages, found = f"?format={form}&group_by=day,property.model", 0, 0
        while query:
            answer = ana.asks(f"/account/usage{query}")
            found += len(answer.json["sums"] if form == "json" else table(answer))
            link = answer.headers.get("link", "")
            query = link[link.find("?") : link.find(">")] if link else ""
            pages += 1
        assert found == 4
        assert pages > 1

    def test_a_limit_of_its_own(self, ana: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sums by a property read the ledger. Each user has a limit; days have none."""
        monkeypatch.setattr(usage_sums, "BY_PROPERTY", Limit(2, timedelta(hours=1)))
        for query in ("?group_by=property.model", "?group_by=day,property.model"):
            assert ana.asks(f"/account/usage{query}").status == 200
        refused = ana.asks("/account/usage?group_by=property.model")
        assert (refused.status, refused.code) == (429, "too_many_requests")
        assert refused.headers["retry-after"] == "3600"  # NOW is a whole hour
        assert ana.asks("/account/usage").status == 200

    @pytest.mark.parametrize(
        "query",
        ["?group_by=week", "?group_by=property.", "?group_by=model", "?group_by=day,model",
         "?group_by=property.a%00", "?group_by=", "?limit=0", "?limit=1001", "?format=xml",
         "?from=2026-09-10T12:00:00Z", "?from=1757462400", "?to=yesterday", "?to=2026-02-30",
         "?from=0000-01-01", "?feature=A", "?cursor=nonsense", "?user_id=usr_ana",
         "?idempotency_key=a", "?limit=5&limit=5", "?=1"],
    )  # fmt: skip
    def test_what_cannot_be_read(self, ana: Person, query: str) -> None:
        """422, naming the parameter; another user cannot be asked for."""
        answer = ana.asks(f"/account/usage{query}")
        assert (answer.status, answer.code) == (422, "invalid_request")
        assert answer.json["errors"][0]["field"].split(".")[-1] == query[1:].partition("=")[0]


class TestWho:
    def test_nothing_of_others(self, ana: Person, subscribe: Subscribe) -> None:
        """Whoever asks reads their own rows."""
        bob = Person(subscribe)
        assert bob.asks("/account/usage").json == {"sums": [], "next_cursor": None}
        cursor = ana.asks("/account/usage?limit=1").json["next_cursor"]
        assert bob.asks(f"/account/usage?cursor={cursor}").json["sums"] == []
        assert bob.asks("/account/usage/events").json["events"] == []

    def test_a_token_of_the_identity_provider(self, subscribe: Subscribe, issuer: Issuer) -> None:
        carla = Person(subscribe, issuer.token(uuid4().hex))
        carla.used("3", "a")
        assert short(carla.asks("/account/usage")) == [("2026-09-10", None, "3", "0")]
        (entry,) = carla.asks("/account/usage/events").json["events"]
        assert entry["user_id"] == carla.id

    @pytest.mark.parametrize("path", ["/account/usage", "/account/usage/events"])
    def test_only_for_people(self, path: str) -> None:
        assert call("GET", path).status == 401
        assert call("GET", path, token=KEY).status == 401

    def test_of_a_user_by_service_key(self, ana: Person) -> None:
        """The product's backend reads the same, with the scope `read`."""
        path = f"/users/{ana.id}/usage"
        answer = call("GET", f"{path}?group_by=property.model&limit=1", token=KEY)
        assert answer.headers["link"].startswith(f"<{path}?")
        found = call("GET", path, token=KEY).json
        assert found == ana.asks("/account/usage").json
        assert call("GET", "/users/nobody/usage", token=KEY).code == "unknown_user"
        assert call("GET", path, token=WITHOUT_READ).code == "missing_scope"
        assert ana.asks(path).code == "service_key_required"
        assert call("GET", f"{path}?userid=x", token=KEY).status == 422


class TestEntries:
    def test_own_entries(self, ana: Person) -> None:
        """As `GET /usage/events` shows them, and nobody else's."""
        found = ana.asks("/account/usage/events").json
        by_key = call("GET", f"/usage/events?user_id={ana.id}", token=KEY).json
        assert found == by_key
        assert [e["idempotency_key"] for e in found["events"]] == ["a", "b", "c", "fix"]

    @pytest.mark.parametrize("form", ["json", "csv"])
    def test_page_by_page(self, ana: Person, form: str) -> None:
        keys: list[str] = []
        query = f"?limit=3&format={form}&from=2026-09-10T12:00:00Z&feature=storage"
        while query:
            answer = ana.asks(f"/account/usage/events{query}")
            rows = answer.json["events"] if form == "json" else table(answer)
            keys += [row["idempotency_key"] for row in rows]
            link = answer.headers.get("link", "")
            assert not link or link.startswith("</account/usage/events?")
            query = link[link.find("?") : link.find(">")] if link else ""
        assert keys == ["a", "b", "c", "fix"]

    @pytest.mark.parametrize(
        "query", ["?user_id=usr_x", "?from=2026-09-10", "?group_by=day", "?limit=0", "?cursor=x"]
    )
    def test_what_cannot_be_read(self, ana: Person, query: str) -> None:
        answer = ana.asks(f"/account/usage/events{query}")
        assert (answer.status, answer.code) == (422, "invalid_request")
