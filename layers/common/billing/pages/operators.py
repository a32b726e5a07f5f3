"""The operators' page: what waits, who uses the API, and everything about one user.

The page changes nothing. For each possible action it shows the command, which an operator gives in
a terminal (docs/operations.md). The page is for the addresses in `Operators`, and for 15 minutes
after a sign-in.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import Response

from billing import email_address, wiring
from billing.accounts import sessions
from billing.accounts.accounts import User
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.credentials import service_keys  # noqa: F401 - wiring imports it late
from billing.credentials.service_keys import Service
from billing.database import health, rounds
from billing.delivery import outbox
from billing.errors import BillingError, DatabaseUnavailable, NotFound
from billing.events import bus, delivering
from billing.http import api, events
from billing.operations import inspection, sweep, waiting
from billing.pages import inspected, pasting, site
from billing.pages.site import app, word
from billing.subscriptions import inbox

PAGE = "/ops"
SEARCH = "/ops/user"

# How long after a sign-in the page is shown.
FRESH = timedelta(minutes=15)
# The threshold of the alarm OutboxAgeAlarm.
RINGS_AFTER = timedelta(minutes=15)
# The threshold of the alarm UndeliveredEventsAlarm.
EVENTS_RING_AFTER = timedelta(hours=1)
KEY_DAYS = 90

_MOST_ROWS = 100
# Commands for missed events begin so long before the endpoint was switched off. An event that was
# written shortly before made no delivery, and one that was found out late has an earlier time.
_MAY_BE_LATE = timedelta(days=1)
_LONGEST = 320

# Reasons of parked deliveries that sending again cannot solve: a person books them at Commet.
_BOOKED_BY_HAND = frozenset({"needs_credit", "not_billed", "lost_to_cancellation"})

logger = Logger(child=True)

Route = Callable[[], Response[Any]]


def for_operators(route: Route) -> Route:
    """Marks a page that only operators see. For others it does not exist."""

    @wraps(route)
    def admitted() -> Response[Any]:
        token = api.session_token_if_sent(app)
        if token is None or not _is_operator(site.user()):
            raise NotFound
        began_at = sessions.began_at(wiring.database(), token)
        if began_at is None or wiring.now() - began_at > FRESH:
            return _sign_in_again()
        return route()

    return site.members(admitted)


def _is_operator(user: User) -> bool:
    """Returns whether the user has proven an address of the list."""
    if user.is_unverified or user.email is None:
        return False
    return email_address.key(user.email) in wiring.settings().operators


def _sign_in_again() -> Response[Any]:
    """Asks for the password. The form is the one of the sign-in, with the same limits."""
    is_form = app.current_event.http_method == "POST"
    values = {"next": PAGE}
    if is_form:
        values = {"again": app.current_event.path, "typed": urlencode(site.shown(site.form()))}
    return site.page("ops_enter.html", status=401, title=word("ops.enter_title"), values=values)


@app.get(PAGE)
@for_operators
def show_state() -> Response[Any]:
    """What waits, and the search for a user."""
    db = wiring.database()
    keys, uses = _keys()
    endpoints = waiting.endpoints(db)
    return site.page(
        "ops.html",
        title=word("ops.title"),
        now=wiring.now(),
        is_healthy=_is_healthy(),
        gauges=outbox.gauges(db),
        pending=waiting.pending(db),
        most_counted=waiting.MOST_COUNTED,
        rings_after=int(RINGS_AFTER.total_seconds()),
        inbox=inbox.health(db),
        sweep=rounds.latest(db, sweep.NAME),
        parked=[(row, _for_parked(row)) for row in waiting.parked(db, _MOST_ROWS)],
        dead=[
            (row, _command("redrive", what="webhooks", id=row.id))
            for row in waiting.dead_webhooks(db, _MOST_ROWS)
        ],
        drift=[
            (row, _command("repair_drift", user=row.user_id))
            for row in waiting.drift(db, _MOST_ROWS)
        ],
        # As the metric EventsAgeSeconds counts it.
        events_age=max(delivering.gauges(db).age_seconds, bus.age_seconds(db)),
        events_ring_after=int(EVENTS_RING_AFTER.total_seconds()),
        # As the alarm counts them.
        endpoints_off=sum(row.disabled_by in ("failures", "gone") for row in endpoints),
        endpoints=[
            (row, _for_endpoint(row)) for row in endpoints if row.disabled_at or row.failing_since
        ],
        most_rows=_MOST_ROWS,
        sweep_command=_command("sweep"),
        compare_command=_command("compare"),
        keys=keys,
        uses=uses,
        key_days=KEY_DAYS,
        values={},
        problem="",
    )


@app.post(SEARCH)
@for_operators
def show_user() -> Response[Any]:
    """Shows everything about one user, after the look was written into the audit trail."""
    who = site.form().get("who", "")
    if not who or len(who) > _LONGEST or not who.isprintable():
        return _search_again(who, word("ops.nobody_typed"))
    try:
        found = inspection.of_user(wiring.database(), who, now=wiring.now())
    except NotFound as error:
        _write_look(None, error.code)
        return _search_again(who, word("ops.unknown"))
    user = found["user"]["id"]
    _write_look(user, trail.DONE)
    return site.page(
        "ops_user.html",
        title=word("ops.user_title", user=user),
        user=user,
        tables=inspected.tables(found),
        would_do=found["would_do"],
        commands=_for_user(found),
        values={"who": who},
        problem="",
    )


def _search_again(who: str, problem: str) -> Response[Any]:
    return site.page(
        "ops_search.html",
        status=422,
        title=word("ops.title"),
        values={"who": who[:_LONGEST]},
        problem=problem,
    )


def _write_look(user_id: str | None, outcome: str) -> None:
    """Writes who looked at whom. The typed text is not written, because it may be an address."""
    request_id = events.request_id(app.current_event.raw_event)
    by = Actor("operator", site.user().id, request_id)
    trail.write(
        wiring.database(), by, Action.COMMAND, user_id=user_id, outcome=outcome, command="show"
    )


def _is_healthy() -> bool:
    try:
        health.check(wiring.database())
    except DatabaseUnavailable:
        return False
    return True


def _keys() -> tuple[Sequence[Service] | None, dict[str, Any]]:
    """The service keys and when each was last used; None for the keys if they cannot be read."""
    try:
        keys = wiring.service_keys().listed()
    except BillingError as error:
        logger.warning("ops.keys_unread", extra={"code": error.code})
        return None, {}
    named = [(key.name, sorted(key.scopes)) for key in keys]
    return keys, trail.last_uses(wiring.database(), named, now=wiring.now(), days=KEY_DAYS)


# --- commands ---------------------------------------------------------------------------------


def _command(name: str, **values: pasting.Value) -> str:
    signed = {"author": site.user().id, "note": pasting.WHY}
    return pasting.pasted(name, local=bool(wiring.settings().clock_url), **values, **signed)


def _for_parked(row: waiting.Parked) -> list[str]:
    """Returns the commands for a parked delivery (docs/operations.md)."""
    resolved = {"user": row.user_id, "id": row.event_id}
    if row.reason in _BOOKED_BY_HAND:
        return [_command("resolve", **resolved)]
    again = _command("redrive", what="deliveries", id=row.event_id)
    if row.reason == "unconfirmed":
        return [_command("resolve", **resolved, delivered=True), again]
    return [again]


def _for_endpoint(row: waiting.EventEndpoint) -> list[str]:
    """Returns the commands for an endpoint that we switched off: it is switched on again, and gets
    the events since then. None for an endpoint that the product switched off.
    """
    if row.disabled_at is None or row.disabled_by == "request":
        return []
    since = row.disabled_at - _MAY_BE_LATE
    missed: dict[str, pasting.Value] = {"endpoint": row.id, "from": since.isoformat()}
    return [_command("enable_endpoint", endpoint=row.id), _command("redeliver", **missed)]


def _for_user(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the commands for a user, each with the key of its words."""
    user = found["user"]["id"]
    wanted = [
        ("parked", any(row["state"] == "parked" for row in found["deliveries"])),
        ("dead", any(row["status"] == "dead" for row in found["webhooks"])),
        ("drift", bool(found["drift"])),
        ("debts", any(row["ended_at"] is None for row in found["debts"])),
        ("sessions", bool(found["user"]["own_account"])),
    ]
    commands = {
        "parked": _command("redrive", what="deliveries", user=user),
        "dead": _command("redrive", what="webhooks", user=user),
        "drift": _command("repair_drift", user=user),
        "debts": _command("forgive", user=user, debt="all"),
        "sessions": _command("end_sessions", user=user),
    }
    return [(f"ops.do_{name}", commands[name]) for name, is_wanted in wanted if is_wanted]
