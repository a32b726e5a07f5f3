"""The page that shows the stand-in's state, live. It works without JavaScript too."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from standin import wire
from standin.agenda import next_due
from standin.clock import parse_iso
from standin.control import PREFIX, Control, customer_state
from standin.errors import ApiError
from standin.faults import FaultRequest, Rule
from standin.models import Delivery, Event
from standin.pages import inspection_payments, view

Handler = Callable[[web.Request], Awaitable[web.Response]]
VIEWS = ("requests", "events", "deliveries", "customers", "payments", "faults")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SHOWN = 50
_LONGEST_TEXT = 20_000

# Hosted pages may load nothing at all. This page loads its own next state.
_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

_STEPS = {"minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests are shown. Reads that get the same answer all the time (a product that polls)
    are shown once, unless `repeats` is set."""

    method: str = ""
    path: str = ""
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Preset:
    """A fault rule that can be picked from a list."""

    words: str
    rule: dict[str, Any]


PRESETS = {
    "slow": Preset("Requests: slow, 2 seconds", {"action": {"latency_ms": 2000}}),
    "unavailable": Preset("Requests: 503, no effect", {"action": {"status": 503}}),
    "unsure": Preset("Requests: 503 after the effect", {"action": {"status": 503, "after": True}}),
    "limited": Preset(
        "Requests: 429, Retry-After 5", {"action": {"status": 429, "retry_after": 5}}
    ),
    "reset": Preset("Requests: reset after the effect", {"action": {"reset": "after"}}),
    "garbage": Preset("Requests: answer is not JSON", {"action": {"invalid_json": True}}),
    "drop": Preset("Webhooks: lost", {"webhooks": {"drop": True}}),
    "duplicate": Preset("Webhooks: sent twice", {"webhooks": {"duplicate": True}}),
    "late": Preset("Webhooks: an hour late", {"webhooks": {"delay_ms": 3_600_000}}),
    "reorder": Preset("Webhooks: three, last first", {"webhooks": {"reorder": 3}}),
    "forged": Preset("Webhooks: wrong signature", {"webhooks": {"corrupt": "signature"}}),
    "late_usage": Preset("Usage: shows an hour late", {"usage": {"late_seconds": 3600}}),
}


class Inspection:
    """GET /_standin/ and its forms. Each form leads back to the view that it is on."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._world = control.world

    async def show(self, request: web.Request) -> web.Response:
        """Show one view: the newest records of its kind, with all their fields."""
        chosen = request.query.get("view", "")
        chosen = chosen if chosen in VIEWS else VIEWS[0]
        wanted = Wanted(
            method=request.query.get("method", ""),
            path=request.query.get("path", ""),
            repeats=request.query.get("repeats") == "yes",
        )
        return self._page(chosen, notice=request.query.get("done"), wanted=wanted)

    def _page(
        self,
        chosen: str,
        *,
        notice: str | None = None,
        alert: str | None = None,
        wanted: Wanted | None = None,
    ) -> web.Response:
        wanted = wanted or Wanted()
        rows: dict[str, Callable[[], list[Any]]] = {
            "requests": lambda: self._control.journal.entries(
                method=wanted.method or None,
                path=wanted.path or None,
                repeats=wanted.repeats,
                limit=SHOWN,
            ),
            "events": self._events,
            "deliveries": self._deliveries,
            "customers": self._customers,
            "payments": lambda: inspection_payments.rows(self._world, SHOWN),
            "faults": lambda: [_rule(rule) for rule in self._world.faults.rules],
        }
        response = view.page(
            "inspection.html",
            status=200 if alert is None else 400,
            views=self._counts(),
            chosen=chosen,
            rows=rows[chosen](),
            shown=SHOWN,
            now=self._world.now(),
            next_up=self._next_up(),
            running=self._control.scheduler.open_run() is not None,
            presets=PRESETS,
            wanted=wanted,
            methods=METHODS,
            prefix=PREFIX,
            base_url=f"{self._world.public_url}/api/v1",
            pretty=pretty,
            moment=moment,
            short=short,
            notice=_NOTICES.get(notice or ""),
            alert=alert,
        )
        response.headers["Content-Security-Policy"] = _CSP
        return response

    def _counts(self) -> dict[str, int]:
        store = self._world.store
        return {
            "requests": len(self._control.journal),
            "events": store.events.count(),
            "deliveries": store.deliveries.count(),
            "customers": store.customers.count(),
            "payments": inspection_payments.count(self._world),
            "faults": sum(not rule.used_up for rule in self._world.faults.rules),
        }

    def _next_up(self) -> tuple[str, datetime] | None:
        """Returns what the clock will do next, and when, except webhook retries."""
        due = next_due(self._world)
        return (_DUE[due.kind], due.at) if due else None

    def _events(self) -> list[tuple[Event, list[Delivery]]]:
        store = self._world.store
        return [
            (event, store.deliveries.find("event_id = ?", event.id, newest=False))
            for event in store.events.find(limit=SHOWN)
        ]

    def _deliveries(self) -> list[dict[str, Any]]:
        store = self._world.store
        found = []
        for delivery in store.deliveries.find(limit=SHOWN):
            endpoint = store.endpoints.get(delivery.endpoint_id)
            found.append(
                {
                    "record": delivery,
                    "url": endpoint.url if endpoint else None,
                    "active": bool(endpoint and endpoint.is_active),
                    "body": readable(delivery.request_body),
                }
            )
        return found

    def _customers(self) -> list[dict[str, Any]]:
        return [
            customer_state(self._world, customer)
            for customer in self._world.store.customers.find(limit=SHOWN)
        ]

    async def advance(self, request: web.Request) -> web.Response:
        """Fields `count` and `unit`: move the clock. Redirects back when everything due is
        processed.
        """
        posted = await request.post()
        count, unit = str(posted.get("count", "")), str(posted.get("unit", ""))
        if not count.isascii() or not count.isdecimal() or unit not in _STEPS:
            return self._page(_view_of(request), alert="Give a whole number of steps.")
        seconds = int(count) * _STEPS[unit]
        if not 0 < seconds <= 3650 * 86_400:
            return self._page(_view_of(request), alert="Move by a minute to ten years.")
        if self._control.scheduler.open_run():
            return self._page(_view_of(request), alert="The clock is already being moved.")
        self._control.scheduler.request_run(self._world.now() + timedelta(seconds=seconds))
        await self._control.scheduler.settle(30)
        return _back(request, "advanced")

    async def redeliver(self, request: web.Request) -> web.Response:
        """Send a delivery again, now."""
        delivery = self._world.store.deliveries.get(request.match_info["id"])
        if delivery is None:
            return self._page("deliveries", alert="There is no such delivery any more.")
        try:
            sent = await self._control.courier.redeliver(delivery)
        except LookupError as gone:
            return self._page("deliveries", alert=f"Not sent: {gone}.")
        return _back(request, "delivered" if sent.attempts[-1].succeeded else "not_delivered")

    async def create_link(self, request: web.Request) -> web.Response:
        """Fields `amount`, `description` and `customer` (optional): a new payment link."""
        posted = await request.post()
        try:
            inspection_payments.create_link(self._world, posted)
        except ApiError as refused:
            return self._page("payments", alert=f"Not done: {refused.message}.")
        return _back(request, "link_created")

    async def act(self, request: web.Request) -> web.Response:
        """Act on a transaction, an invoice or a payment link, or send an event."""
        posted = await request.post()
        action = request.match_info["action"]
        try:
            inspection_payments.act(self._world, request.match_info["id"], action, posted)
        except ApiError as refused:
            return self._page("payments", alert=f"Not done: {refused.message}.")
        return _back(request, "announced" if action == "announce" else "acted")

    async def add_fault(self, request: web.Request) -> web.Response:
        """Field `preset` with `times`, or field `rule`: a whole rule as JSON."""
        posted = await request.post()
        text = str(posted.get("rule", "")).strip()
        try:
            asked = wire.loads(text) if text else _picked(posted)
            self._world.faults.rules.append(FaultRequest.model_validate(asked).rule())
        except ValidationError as wrong:
            return self._page("faults", alert=f"Not a rule: {wrong.errors()[0]['msg']}.")
        except ValueError as wrong:
            return self._page("faults", alert=f"Not a rule: {wrong}.")
        return _back(request, "fault_added")

    async def clear_faults(self, request: web.Request) -> web.Response:
        """Delete all fault rules, or the one named in the path."""
        self._world.faults.clear(request.match_info.get("id"))
        return _back(request, "faults_cleared")


_NOTICES = {
    "advanced": "The clock has been moved, and all that was due is done.",
    "delivered": "Sent again, and acknowledged.",
    "not_delivered": "Sent again, and not acknowledged.",
    "link_created": "The payment link is open.",
    "acted": "Done, and the events are on their way.",
    "announced": "The event is on its way; nothing else has changed.",
    "fault_added": "The rule is in force.",
    "faults_cleared": "The rule is gone.",
}


_DUE = {
    "dunning_retry": "another try to collect a payment",
    "resume": "a paused subscription resumes",
    "notice": "notice of a renewal or the end of a trial",
    "trial_end": "a trial ends",
    "cancellation": "a cancellation takes effect",
    "pause": "a pause begins",
    "renewal": "a renewal",
    "allowance_end": "a new month of included usage",
    "overdue": "an unpaid invoice becomes overdue",
}


def _rule(rule: Rule) -> dict[str, Any]:
    parts = {
        part: getattr(rule, part).model_dump_json(exclude_defaults=True)
        for part in ("match", "action", "webhooks", "usage")
        if hasattr(rule, part)
    }
    return {
        "id": rule.id,
        "hits": rule.hits,
        "over": rule.used_up,
        "often": "until cleared"
        if rule.times is None
        else "once"
        if rule.times == 1
        else f"{rule.times} times",
        "parts": {part: text for part, text in parts.items() if text != "{}"},
    }


def _picked(posted: Mapping[str, Any]) -> dict[str, Any]:
    preset = PRESETS.get(str(posted.get("preset", "")))
    if preset is None:
        raise ValueError("pick one")
    times = str(posted.get("times", ""))
    return preset.rule | {"times": int(times) if times else None}


def _view_of(request: web.Request) -> str:
    asked = request.query.get("view", "")
    return asked if asked in VIEWS else VIEWS[0]


def _back(request: web.Request, done: str) -> web.Response:
    return view.see_other(f"{PREFIX}/?view={_view_of(request)}&done={done}")


def readable(text: str) -> Any:
    """Returns parsed JSON, or the text if it is no JSON."""
    try:
        return wire.loads(text) if text else None
    except (ValueError, RecursionError):
        return text


def pretty(value: Any, indent: str = "") -> str:
    """Returns JSON on several lines, with decimals unchanged. Long values are cut."""
    deeper = indent + "  "
    if isinstance(value, Mapping) and value:
        lines = [
            f"{deeper}{wire.dumps(str(k)).decode()}: {pretty(v, deeper)}" for k, v in value.items()
        ]
        text = "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        text = "[\n" + ",\n".join(deeper + pretty(v, deeper) for v in value) + f"\n{indent}]"
    else:
        text = value if isinstance(value, str) and not indent else wire.dumps(value).decode()
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def moment(value: datetime | str) -> str:
    """A moment such as 1 September 2026, 12:03:15."""
    at = parse_iso(value) if isinstance(value, str) else value
    return f"{view.day(at)}, {at:%H:%M:%S}"


def short(value: datetime | str) -> str:
    """Returns a moment in the short form for a column, such as 1 Sep 12:03:15."""
    at = parse_iso(value) if isinstance(value, str) else value
    return f"{at.day} {at:%b %H:%M:%S}"


def add_routes(app: web.Application, control: Control) -> None:
    """Mount the page below the control endpoints."""
    pages = Inspection(control)
    forms: tuple[tuple[str, Handler], ...] = (
        ("/ui/clock", pages.advance),
        ("/ui/deliveries/{id}/redeliver", pages.redeliver),
        ("/ui/payments", pages.create_link),
        ("/ui/payments/{id}/{action}", pages.act),
        ("/ui/faults", pages.add_fault),
        ("/ui/faults/clear", pages.clear_faults),
        ("/ui/faults/{id}/clear", pages.clear_faults),
    )
    app.router.add_get(f"{PREFIX}/", pages.show)
    for path, handler in forms:
        app.router.add_post(PREFIX + path, handler)
