"""Endpoints below /_standin, which Commet does not have: inspect, move time, inject faults."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from standin import cards, checkout, recovery, subscriptions, wire
from standin.cards import CardForm, CardFormError, CardRefusedError
from standin.clock import iso, parse_iso
from standin.delivery import Courier
from standin.entitlements import entitlements
from standin.errors import ApiError
from standin.faults import FaultRequest
from standin.journal import Journal
from standin.models import Card, Customer, Record
from standin.render import feature_access_fields
from standin.scheduler import Scheduler
from standin.schemas import validation_error
from standin.store import Table
from standin.world import World

PREFIX = "/_standin"
_LONGEST_RUN_SECONDS = 60.0


class StrictBody(BaseModel):
    """A control request. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class PayRequest(StrictBody):
    """POST /_standin/pay: the card form of a checkout page, without the page."""

    subscription_id: str
    card_number: str = "4242424242424242"


class AdvanceRequest(StrictBody):
    """POST /_standin/clock: move the clock forward, to a moment or by an amount."""

    to: str | None = None
    days: float = Field(default=0, ge=0)
    seconds: float = Field(default=0, ge=0)


class CardRequest(StrictBody):
    """POST /_standin/customers/{id}/card: how saved cards behave from now on."""

    charge_failure: str | None = None
    last4: str | None = None
    """The card to change; None: every saved card of the customer."""


class NewCardRequest(StrictBody):
    """POST /_standin/customers/{id}/cards: one more saved card."""

    card_number: str


@dataclass(frozen=True, slots=True)
class Control:
    """The objects that the control endpoints use."""

    world: World
    courier: Courier
    scheduler: Scheduler
    journal: Journal

    async def index(self, request: web.Request) -> web.Response:
        """Counts and endpoints as JSON; browsers are redirected to the inspection page."""
        if "text/html" in request.headers.get("Accept", ""):
            raise web.HTTPSeeOther(f"{PREFIX}/")
        world = self.world
        return as_json(
            {
                "now": iso(world.now()),
                "organizationId": world.organization_id,
                "publicUrl": world.public_url,
                "counts": {
                    name: table.count()
                    for name, table in vars(world.store).items()
                    if isinstance(table, Table)
                },
                "endpoints": [
                    f"{PREFIX}/{name}"
                    for name in (
                        "state",
                        "events",
                        "deliveries",
                        "requests",
                        "payments",
                        "faults",
                        "clock",
                    )
                ],
            }
        )

    async def state(self, _: web.Request) -> web.Response:
        """All records, except the secrets of webhook endpoints."""
        store = self.world.store
        endpoints = [e | {"secret": "…"} for e in dump(store.endpoints.find())]
        return as_json(
            {
                "now": iso(self.world.now()),
                "customers": dump(store.customers.find()),
                "subscriptions": dump(store.subscriptions.find()),
                "meters": dump(store.meters.find()),
                "invoices": dump(store.invoices.find()),
                "transactions": dump(store.transactions.find()),
                "refunds": dump(store.refunds.find()),
                "payments": dump(store.payments.find()),
                "webhooks": endpoints,
                "clockRuns": dump(store.clock_runs.find(limit=10)),
            }
        )

    async def customer(self, request: web.Request) -> web.Response:
        """One customer, by either id, with all records about the customer."""
        customer = self.world.customer(request.match_info["id"])
        return as_json(customer_state(self.world, customer))

    async def events(self, request: web.Request) -> web.Response:
        """Events, newest first; `?event=` picks one name, `?limit=` how many."""
        condition, values = _filter(request, event="name")
        found = self.world.store.events.find(condition, *values, limit=_limit(request))
        return as_json({"data": [self._event(e.id) for e in found]})

    def _event(self, event_id: str) -> dict[str, Any]:
        event = self.world.store.events.get(event_id)
        if event is None:
            raise web.HTTPNotFound
        return {
            "id": event.id,
            "event": event.name,
            "timestamp": iso(event.timestamp),
            "data": event.data,
            "deliveries": [
                d.id for d in self.world.store.deliveries.find("event_id = ?", event.id)
            ],
        }

    async def deliveries(self, request: web.Request) -> web.Response:
        """Deliveries with their attempts, newest first; `?status=` and `?endpoint=` filter."""
        condition, values = _filter(
            request, status="status", endpoint="endpoint_id", event_id="event_id"
        )
        found = self.world.store.deliveries.find(condition, *values, limit=_limit(request))
        name = request.query.get("event")
        return as_json({"data": [d for d in dump(found) if name in {None, d["event_name"]}]})

    async def redeliver(self, request: web.Request) -> web.Response:
        """Try a delivery once more, now."""
        delivery = self.world.store.deliveries.get(request.match_info["id"])
        if delivery is None:
            return as_json({"error": "no such delivery"}, status=404)
        try:
            return as_json(dump([await self.courier.redeliver(delivery)])[0])
        except LookupError as gone:
            return as_json({"error": str(gone)}, status=409)

    async def requests(self, request: web.Request) -> web.Response:
        """API requests and answers, newest first; `method`, `path` and `repeats=no` filter."""
        entries = self.journal.entries(
            method=request.query.get("method") or None,
            path=request.query.get("path") or None,
            repeats=request.query.get("repeats") != "no",
            limit=_limit(request),
        )
        return as_json({"data": entries})

    async def list_faults(self, _: web.Request) -> web.Response:
        """The fault rules that apply."""
        return as_json({"data": dump(self.world.faults.rules)})

    async def add_fault(self, request: web.Request) -> web.Response:
        """Add a fault rule."""
        rule = FaultRequest.model_validate(await read_body(request)).rule()
        self.world.faults.rules.append(rule)
        return as_json(dump([rule])[0], status=201)

    async def clear_faults(self, request: web.Request) -> web.Response:
        """Delete all fault rules, or the one named in the path."""
        self.world.faults.clear(request.match_info.get("id"))
        return as_json({"data": dump(self.world.faults.rules)})

    async def clock(self, _: web.Request) -> web.Response:
        """The simulated time."""
        return as_json({"now": iso(self.world.now()), "moved": self.world.clock.moved})

    async def advance(self, request: web.Request) -> web.Response:
        """Move the clock and wait until everything due has been processed and delivered."""
        asked = AdvanceRequest.model_validate(await read_body(request))
        target = (
            parse_iso(asked.to)
            if asked.to
            else self.world.now() + timedelta(days=asked.days, seconds=asked.seconds)
        )
        if self.scheduler.open_run() or target <= self.world.now():
            return as_json({"error": "only forward, and one run at a time"}, status=409)
        run = self.scheduler.request_run(target)
        settled = await self.scheduler.settle(_LONGEST_RUN_SECONDS)
        finished = self.world.store.clock_runs.get(run.id) or run
        return as_json({"now": iso(self.world.now()), "settled": settled} | dump([finished])[0])

    async def settle(self, request: web.Request) -> web.Response:
        """Wait until nothing is due and no webhook is under way."""
        settled = await self.scheduler.settle(float(request.query.get("timeout", "10")))
        return as_json({"settled": settled}, status=200 if settled else 504)

    async def pay(self, request: web.Request) -> web.Response:
        """Pay a pending subscription as its checkout page would."""
        asked = PayRequest.model_validate(await read_body(request))
        form = CardForm(asked.card_number, "12/34", "123")
        sub = subscriptions.find(self.world, asked.subscription_id)
        if checkout.order(self.world, sub) is None:
            return as_json({"error": f"the subscription is {sub.status}"}, status=409)
        try:
            with self.world.transaction():
                checkout.pay(self.world, sub, form)
        except CardRefusedError as refusal:
            pending = subscriptions.find(self.world, sub.id)
            with self.world.transaction():
                checkout.note_declined(self.world, pending, form, refusal.failure)
            return as_json({"error": refusal.message, "code": refusal.code}, status=402)
        except CardFormError as wrong:
            return as_json({"error": str(wrong)}, status=400)
        return as_json({"status": sub.status, "subscription_id": sub.id})

    async def set_card(self, request: web.Request) -> web.Response:
        """Set how later charges of a customer's cards end."""
        asked = CardRequest.model_validate(await read_body(request))
        customer = self.world.customer(request.match_info["id"])
        if customer.card is None:
            customer.card = Card(brand="visa", last4="4242", exp_month=12, exp_year=2034)
        meant = [card for card in customer.cards if asked.last4 in {None, card.last4}]
        if not meant:
            return as_json({"error": f"no saved card ends in {asked.last4}"}, status=404)
        for card in meant:
            card.charge_failure = asked.charge_failure
        self.world.store.customers.put(customer)
        return as_json(_cards(customer))

    async def add_card(self, request: web.Request) -> web.Response:
        """Save one more card, which dunning tries when the default one is declined."""
        asked = NewCardRequest.model_validate(await read_body(request))
        customer = self.world.customer(request.match_info["id"])
        try:
            card = cards.accept(CardForm(asked.card_number, "12/34", "123"), self.world.now())
        except (CardRefusedError, CardFormError) as refusal:
            return as_json({"error": str(refusal)}, status=400)
        with self.world.transaction():
            recovery.add_card(self.world, customer, card)
        return as_json(_cards(customer), status=201)

    async def reset(self, _: web.Request) -> web.Response:
        """Delete every record and rule. The API key and the clock do not change."""
        await self.courier.quiet()
        self.world.faults.clear()
        self.world.store.forget_everything()
        self.journal.clear()
        return as_json({"status": "empty"})


def _cards(customer: Customer) -> dict[str, Any]:
    return {"card": dump(customer.cards)[0], "other_cards": dump(customer.other_cards)}


def as_json(body: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        status=status, body=wire.dumps(body), headers={"Content-Type": "application/json"}
    )


def customer_state(world: World, customer: Customer) -> dict[str, Any]:
    """Returns a customer with subscriptions (the live one first), usage, invoices and last
    events.
    """
    store = world.store
    subs = store.subscriptions.find("customer_id = ?", customer.id)
    subs.sort(key=lambda sub: not sub.is_live)
    events = store.events.find("customer_id = ?", customer.id, limit=20)
    return {
        "customer": plain(customer) | {"public_id": customer.public_id},
        "subscriptions": [plain(sub) | {"plan": world.plan(sub).name} for sub in subs],
        "features": [
            feature_access_fields(world, item)
            for sub in subs[:1]
            for item in entitlements(world, sub)
            if item.feature.type == "boolean" or item.allowance
        ],
        "invoices": dump(store.invoices.find("customer_id = ?", customer.id)),
        "events": [{"id": e.id, "event": e.name, "timestamp": iso(e.timestamp)} for e in events],
    }


def dump(records: list[Any]) -> list[dict[str, Any]]:
    """Returns records as JSON-ready dictionaries, including free-form JSON unchanged."""
    return [plain(record) for record in records]


def plain(record: BaseModel) -> dict[str, Any]:
    """A record as a JSON-ready dictionary."""
    shown: dict[str, Any] = wire.loads(record.model_dump_json())
    if isinstance(record, Record):
        # Free-form JSON is stored as text; here it is shown as JSON.
        for name in ("data", "metadata", "terms", "address", "context"):
            if isinstance(shown.get(name), str):
                shown[name] = wire.loads(shown[name])
    return shown


def _filter(request: web.Request, **columns: str) -> tuple[str, list[str]]:
    wanted = {
        column: request.query[name] for name, column in columns.items() if name in request.query
    }
    return " AND ".join(f"{column} = ?" for column in wanted) or "1", list(wanted.values())


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "100")
    return min(int(text), 10_000) if text.isdecimal() else 100


async def read_body(request: web.Request) -> Any:
    """The JSON of a request, `{}` for an empty one. Raises ValueError."""
    raw = await request.read()
    return wire.loads(raw) if raw.strip() else {}


@web.middleware
async def _explain(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer errors in control requests with JSON."""
    try:
        response: web.StreamResponse = await handler(request)
    except ApiError as error:
        return as_json(error.body(), status=error.status)
    except ValidationError as error:
        return as_json(validation_error(error).body(), status=400)
    except ValueError as error:
        return as_json({"error": str(error)}, status=400)
    return response


def add_routes(
    app: web.Application, control: Control, more: Iterable[web.AbstractRouteDef] = ()
) -> None:
    """Mount the control endpoints, and more of them from another module."""
    part = web.Application(middlewares=[_explain])
    part.add_routes(
        [
            web.get("", control.index),
            web.get("/state", control.state),
            web.get("/events", control.events),
            web.get("/deliveries", control.deliveries),
            web.post("/deliveries/{id}/redeliver", control.redeliver),
            web.get("/requests", control.requests),
            web.get("/faults", control.list_faults),
            web.post("/faults", control.add_fault),
            web.delete("/faults", control.clear_faults),
            web.delete("/faults/{id}", control.clear_faults),
            web.get("/clock", control.clock),
            web.post("/clock", control.advance),
            web.post("/settle", control.settle),
            web.post("/pay", control.pay),
            web.get("/customers/{id}", control.customer),
            web.post("/customers/{id}/card", control.set_card),
            web.post("/customers/{id}/cards", control.add_card),
            web.post("/reset", control.reset),
            *more,
        ]
    )
    app.add_subapp(PREFIX, part)
