"""The page `/_events` of the local stack: outgoing events and their deliveries, the newest first.

The page refreshes itself. For `Accept: application/json` it is JSON. `?user_id=` shows the events
of one user, and `/_events/bus` the entries of the EventBridge bus. The pages change nothing, and
answer only requests to names of this machine.
"""

import json
import urllib.parse
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from local.event_bus import EventBus
from local.mailbox import PAGE, is_this_machine

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_SHOWN = 200
_REFRESH_SECONDS = 2
_QUERY = """
select e.id::text, e.user_id, e.type, e.place, e.sequence, e.data,
       to_char(e.occurred_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as time,
       coalesce(e.place <= (select b.place from event_bus b), false) as on_bus,
       coalesce((
           select jsonb_agg(jsonb_build_object(
               'endpoint', d.endpoint, 'url', p.url, 'state', d.state, 'attempts', d.attempts,
               'status', d.last_status, 'reason', d.last_reason
           ) order by p.created_at, p.id)
           from event_delivery d join event_endpoint p on p.id = d.endpoint
           where d.event = e.id
       ), '[]') as deliveries,
       (select m.kind from mails m where m.event = e.id) as mail
from outgoing_event e
where %(user_id)s::text is null or e.user_id = %(user_id)s::text
order by e.entry desc
limit %(limit)s
"""
_TYPES = {"json": "application/json", "html": "text/html; charset=utf-8", "text": "text/plain"}
_REASONS = {
    200: "OK", 404: "Not Found", 405: "Method Not Allowed", 421: "Misdirected Request",
    503: "Service Unavailable",
}  # fmt: skip

Event = dict[str, Any]
Answer = tuple[int, str, str]


class EventsPage:
    """The pages, which read the stack's database and its bus."""

    def __init__(self, database_url: str, bus: EventBus) -> None:
        self._database_url = database_url
        self._bus = bus

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """The WSGI application."""
        status, kind, text = self._answer(environ)
        body = text.encode()
        headers = {
            "Content-Type": _TYPES[kind],
            "Content-Length": str(len(body)),
            "Content-Security-Policy": (
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        if kind == "html":
            headers["Refresh"] = str(_REFRESH_SECONDS)
        start_response(f"{status} {_REASONS[status]}", list(headers.items()))
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _answer(self, environ: "WSGIEnvironment") -> Answer:
        if not is_this_machine(str(environ.get("HTTP_HOST", ""))):
            return 421, "text", "Only names of this machine are answered.\n"
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return 405, "text", "Events can only be read here.\n"
        part = str(environ.get("PATH_INFO", "")).strip("/")
        if part == "bus":
            entries = [asdict(each) for each in self._bus.entries()]
            return 200, "json", json.dumps({"entries": entries})
        if part:
            return 404, "text", "There is no such page.\n"
        as_json = _TYPES["json"] in str(environ.get("HTTP_ACCEPT", ""))
        return self._list(str(environ.get("QUERY_STRING", "")), as_json=as_json)

    def _list(self, query: str, *, as_json: bool) -> Answer:
        user_id = urllib.parse.parse_qs(query).get("user_id", [None])[0]
        try:
            events = self._events(user_id)
        except psycopg.Error:
            return 503, "text", "The database does not answer.\n"
        if as_json:
            return 200, "json", json.dumps({"events": events})
        return 200, "html", _page(events, user_id)

    def _events(self, user_id: str | None) -> list[Event]:
        with psycopg.connect(
            self._database_url, connect_timeout=5, row_factory=dict_row
        ) as connection:
            return connection.execute(_QUERY, {"user_id": user_id, "limit": _SHOWN}).fetchall()


def _page(events: list[Event], user_id: str | None) -> str:
    of_whom = f" of {user_id} " if user_id else " "
    intro = (
        f'<h1>Outgoing events</h1>\n<p class="quiet">What became true{escape(of_whom)}and who was'
        f" told, the newest first. The page refreshes itself. "
        '<a href="/_events/bus">What is on the EventBridge bus</a></p>\n'
    )
    rows = "".join(_row(each) for each in events)
    body = intro + (f"<ul>{rows}</ul>" if rows else "<p>Nothing has happened yet.</p>")
    return PAGE.substitute(title="Outgoing events", body=body)


def _row(event: Event) -> str:
    user = escape(event["user_id"])
    link = f"/_events?{urllib.parse.urlencode({'user_id': event['user_id']})}"
    number = f"number {event['sequence']}" if event["sequence"] else "waits for its place"
    told = [_delivered(each) for each in event["deliveries"]]
    told += ["on the bus"] if event["on_bus"] else []
    told += [f"mail: {event['mail']}"] if event["mail"] else []
    lines = "".join(f'<div class="quiet">{escape(line)}</div>' for line in told)
    data = escape(json.dumps(event["data"], ensure_ascii=False, indent=2))
    return (
        f"<li><strong>{escape(event['type'])}</strong>"
        f' <a href="{escape(link)}">{user}</a>, {number}, {escape(event["time"])}'
        f"{lines}<pre>{data}</pre></li>\n"
    )


def _delivered(delivery: dict[str, Any]) -> str:
    why = delivery["reason"] or delivery["status"] or ""
    said = f" ({why})" if why else ""
    return f"{delivery['state']}{said}, {delivery['attempts']} attempts: {delivery['url']}"
