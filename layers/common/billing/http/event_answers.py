"""Reads outgoing events, and creates, changes and reads the endpoints that they are sent to."""

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response

from billing import wiring
from billing.errors import FieldError, InvalidRequest
from billing.events import addresses, cloud_events, endpoints, log, signing
from billing.events.endpoints import Delivery, Endpoint
from billing.http import api
from billing.http.shapes.events import (
    ChangeEndpoint,
    CreateEndpoint,
    EndpointList,
    EndpointReply,
    EndpointWithSecret,
    EventAttemptReply,
    EventDeliveryPage,
    EventDeliveryReply,
    OutgoingEventPage,
    Redeliver,
    Redelivered,
)

_DELIVERIES_ON_A_PAGE = 100


def events(
    *, after: int, limit: int, user_id: str | None, types: str | None
) -> Response[OutgoingEventPage]:
    """Returns the events after a place that are committed by now."""
    wanted = None if types is None else types.split(",")
    db = wiring.database()
    log.place(db)
    found = log.after(db, after, limit, wanted, user_id)
    source = wiring.event_source()
    page = {
        "events": [cloud_events.document(each, source) for each in found],
        "next_after": found[-1].place if found else after,
    }
    return api.json_response(page)  # type: ignore[arg-type]  # the model's own types


def create(app: APIGatewayHttpResolver, asked: CreateEndpoint) -> EndpointWithSecret:
    """Creates an endpoint. Raises InvalidRequest for its URL, and the errors of
    `endpoints.create`.
    """
    _check(asked.url)
    made = endpoints.create(
        wiring.database(),
        url=asked.url,
        types=asked.types,
        description=asked.description,
        by=api.actor(app),
    )
    return _with_secret(made)


def listed() -> EndpointList:
    """All endpoints."""
    return EndpointList(endpoints=[_reply(each) for each in endpoints.listed(wiring.database())])


def endpoint(endpoint_id: str) -> EndpointReply:
    """One endpoint. Raises NotFound."""
    return _reply(endpoints.get(wiring.database(), endpoint_id))


def change(app: APIGatewayHttpResolver, endpoint_id: str, asked: ChangeEndpoint) -> EndpointReply:
    """Changes an endpoint. Raises InvalidRequest for its URL, and NotFound."""
    if asked.url is not None:
        _check(asked.url)
    types = asked.types
    if types is None and "types" in asked.model_fields_set:
        types = []  # null: all types
    wanted = endpoints.Change(
        url=asked.url, types=types, description=asked.description, enabled=asked.enabled
    )
    return _reply(endpoints.change(wiring.database(), endpoint_id, wanted, by=api.actor(app)))


def delete(app: APIGatewayHttpResolver, endpoint_id: str) -> None:
    """Deletes an endpoint. Raises NotFound."""
    endpoints.delete(wiring.database(), endpoint_id, by=api.actor(app))


def rotate(app: APIGatewayHttpResolver, endpoint_id: str) -> EndpointWithSecret:
    """Gives an endpoint a new secret. Raises NotFound."""
    return _with_secret(endpoints.rotate(wiring.database(), endpoint_id, by=api.actor(app)))


def deliveries(endpoint_id: str, state: str | None, cursor: str | None) -> EventDeliveryPage:
    """A page of an endpoint's deliveries. Raises NotFound, and InvalidRequest for the cursor."""
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and int(cursor) < 2**63):
        wrong = FieldError("cursor", "invalid_cursor", "Send a next_cursor value unchanged.")
        raise InvalidRequest(errors=[wrong])
    found = endpoints.deliveries(
        wiring.database(),
        endpoint_id,
        state=state,
        before=None if cursor is None else int(cursor),
        limit=_DELIVERIES_ON_A_PAGE + 1,
    )
    shown = found[:_DELIVERIES_ON_A_PAGE]
    has_more = len(found) > len(shown)
    return EventDeliveryPage(
        deliveries=[_delivery(each) for each in shown],
        next_cursor=str(shown[-1].place) if has_more else None,
    )


def redeliver(app: APIGatewayHttpResolver, endpoint_id: str, asked: Redeliver) -> Redelivered:
    """Sends events again. Raises NotFound, and InvalidRequest unless `asked` is one event or a
    range.
    """
    db, by = wiring.database(), api.actor(app)
    if asked.event is not None and asked.start is None and asked.end is None:
        return Redelivered(queued=endpoints.redeliver_one(db, endpoint_id, asked.event, by=by))
    if asked.event is None and asked.start is not None and asked.end is not None:
        queued = endpoints.redeliver_range(
            db, endpoint_id, asked.start, asked.end, by=by, deadline=api.deadline(app)
        )
        return Redelivered(queued=queued)
    raise InvalidRequest(errors=[FieldError("body", "one_or_range", "Send event, or from and to.")])


def _check(url: str) -> None:
    allow_loopback = wiring.settings().receivers_on_loopback
    problem = addresses.problem_of(url, allow_loopback=allow_loopback)
    if problem is not None:
        raise InvalidRequest(errors=[FieldError("url", "url_not_allowed", problem)])


def _with_secret(found: Endpoint) -> EndpointWithSecret:
    secret = signing.secret_of(wiring.endpoint_secret(), found.id, found.generation)
    return EndpointWithSecret(**_reply(found).model_dump(), secret=secret)


def _reply(found: Endpoint) -> EndpointReply:
    return EndpointReply(
        id=found.id,
        url=found.url,
        types=found.types,
        description=found.description,
        enabled=found.disabled_at is None,
        disabled_by=found.disabled_by,
        disabled_at=found.disabled_at,
        failing_since=found.failing_since,
        previous_secret_until=found.previous_until,
        created_at=found.created_at,
    )


def _delivery(found: Delivery) -> EventDeliveryReply:
    return EventDeliveryReply(
        event=str(found.event),
        type=found.type,
        user_id=found.user_id,
        sequence=str(found.sequence),
        state=found.state,
        attempts=found.attempts,
        next_attempt_at=found.due_at,
        attempted_at=found.attempted_at,
        http_status=found.status,
        reason=found.reason,
        ended_at=found.ended_at,
        log=[
            EventAttemptReply(
                at=each.at,
                http_status=each.status,
                reason=each.reason,
                milliseconds=each.milliseconds,
            )
            for each in found.log
        ],
    )
