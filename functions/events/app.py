"""Outgoing events over HTTP: reading them, the endpoints they are sent to, and thresholds."""

from typing import Annotated, Any, Literal

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter

from billing.deadline import LambdaContext
from billing.events import endpoints
from billing.events.known_types import LIST_PATTERN
from billing.field_types import USER_ID_PATTERN
from billing.http import api, event_answers, threshold_answers
from billing.http.shapes.events import (
    ChangeEndpoint,
    CreateEndpoint,
    EndpointList,
    EndpointReply,
    EndpointWithSecret,
    EventDeliveryPage,
    OutgoingEventPage,
    Redeliver,
    Redelivered,
)
from billing.http.shapes.limits import (
    ChangeThreshold,
    CreateThresholdOfUser,
    ThresholdList,
    ThresholdReply,
)

TO_READ = api.by_service("read")
TO_MANAGE = api.by_service("events:manage")

EndpointId = Annotated[
    str,
    PathParameter(
        pattern=endpoints.PATTERN,
        description="The endpoint's id.",
        examples=["ep_8f2c41d09ab37e65f1c0d2b4"],
    ),
]

ThresholdId = Annotated[
    str,
    PathParameter(
        pattern=r"^thr_[0-9a-f]{32}$",
        description="The threshold's id.",
        examples=["thr_6d1e80f2c41d09ab37e65f1c0d2b4a7c"],
    ),
]

app = api.resolver()


@app.get("/events", security=TO_READ, responses=api.answers(OutgoingEventPage, 200))
def list_events(
    after: Annotated[
        int,
        Query(
            ge=0,
            le=2**63 - 1,
            description="`next_after` of the page before. 0, or left out: from the oldest event.",
            examples=[0],
        ),
    ] = 0,
    limit: Annotated[
        int, Query(ge=1, le=1000, description="The most events to answer.", examples=[100])
    ] = 100,
    user_id: Annotated[
        str | None,
        Query(
            pattern=USER_ID_PATTERN,
            description="Only events of this user.",
            examples=["customer-42"],
        ),
    ] = None,
    types: Annotated[
        str | None,
        Query(
            pattern=LIST_PATTERN,
            max_length=1000,
            description="Only events of these types, separated by commas.",
            examples=["access.granted,access.ended"],
        ),
    ] = None,
) -> Response[OutgoingEventPage]:
    """Read events in their order, from a place on.

    Each event is a CloudEvent. Ask again with `next_after`: an event never appears before a place
    that was answered. Events stay in the log for some time (docs/events.md).
    """
    return event_answers.events(after=after, limit=limit, user_id=user_id, types=types)


@app.post(
    "/events/endpoints",
    status_code=201,
    security=TO_MANAGE,
    responses=api.answers(EndpointWithSecret, 201),
)
@api.may_answer("too_many_endpoints")
def create_endpoint(body: Annotated[CreateEndpoint, Body()]) -> Response[EndpointWithSecret]:
    """Have events posted to an address of your product.

    It gets the events from now on. The secret, which verifies their signatures, is answered this
    once.
    """
    return api.json_response(event_answers.create(app, body), 201)


@app.get("/events/endpoints", security=TO_MANAGE, responses=api.answers(EndpointList, 200))
def list_endpoints() -> Response[EndpointList]:
    """List the endpoints, the oldest first. There are ten at most."""
    return api.json_response(event_answers.listed())


@app.get(
    "/events/endpoints/<endpoint_id>",
    security=TO_MANAGE,
    responses=api.answers(EndpointReply, 200),
)
@api.may_answer("endpoint_not_found")
def get_endpoint(endpoint_id: EndpointId) -> Response[EndpointReply]:
    """Read one endpoint, and whether it is failing or switched off."""
    return api.json_response(event_answers.endpoint(endpoint_id))


@app.patch(
    "/events/endpoints/<endpoint_id>",
    security=TO_MANAGE,
    responses=api.answers(EndpointReply, 200),
)
@api.may_answer("endpoint_not_found")
def change_endpoint(
    endpoint_id: EndpointId, body: Annotated[ChangeEndpoint, Body()]
) -> Response[EndpointReply]:
    """Change an endpoint, or switch it on or off.

    Switched on again, it gets what waited when it was switched off. Events that came meanwhile are
    sent if you ask for them to be sent again.
    """
    return api.json_response(event_answers.change(app, endpoint_id, body))


@app.delete(
    "/events/endpoints/<endpoint_id>",
    status_code=204,
    security=TO_MANAGE,
    responses=api.answers(None, 204),
)
@api.may_answer("endpoint_not_found")
def delete_endpoint(endpoint_id: EndpointId) -> Response[None]:
    """Delete an endpoint, with the log of its deliveries."""
    event_answers.delete(app, endpoint_id)
    return Response(204)


@app.post(
    "/events/endpoints/<endpoint_id>/rotate",
    security=TO_MANAGE,
    responses=api.answers(EndpointWithSecret, 200),
)
@api.may_answer("endpoint_not_found")
def rotate_endpoint_secret(endpoint_id: EndpointId) -> Response[EndpointWithSecret]:
    """Get a new secret, which is answered this once.

    For 24 hours each event is signed with the secret before as well.
    """
    return api.json_response(event_answers.rotate(app, endpoint_id))


@app.get(
    "/events/endpoints/<endpoint_id>/deliveries",
    security=TO_MANAGE,
    responses=api.answers(EventDeliveryPage, 200),
)
@api.may_answer("endpoint_not_found")
def list_event_deliveries(
    endpoint_id: EndpointId,
    state: Annotated[
        str | None,
        Query(
            pattern="^(pending|sent|failed)$",
            description="Only deliveries in this state: `pending`, `sent` or `failed`.",
            examples=["failed"],
        ),
    ] = None,
    cursor: Annotated[
        str | None,
        Query(
            max_length=20,
            description="`next_cursor` of the page before. Left out: the first page.",
            examples=["412"],
        ),
    ] = None,
) -> Response[EventDeliveryPage]:
    """List what was sent to an endpoint or waits to be, the newest event first."""
    return api.json_response(event_answers.deliveries(endpoint_id, state, cursor))


@app.post(
    "/events/endpoints/<endpoint_id>/redeliver",
    status_code=202,
    security=TO_MANAGE,
    responses=api.answers(Redelivered, 202),
)
@api.may_answer("endpoint_not_found", "event_not_found", "range_too_long")
def redeliver_events(
    endpoint_id: EndpointId, body: Annotated[Redeliver, Body()]
) -> Response[Redelivered]:
    """Have events sent to an endpoint again: one, or all of a range of time.

    An event that the endpoint never got is sent too, for instance one from before the endpoint was
    made. Events that wait already are not counted.
    """
    return api.json_response(event_answers.redeliver(app, endpoint_id, body), 202)


@app.post(
    "/events/thresholds",
    status_code=201,
    security=TO_MANAGE,
    responses=api.answers(ThresholdReply, 201, "Added")
    | api.answers(ThresholdReply, 200, "There is an equal one already"),
)
@api.may_answer("too_many_thresholds", "unknown_user")
def create_user_threshold(
    body: Annotated[CreateThresholdOfUser, Body()],
) -> Response[ThresholdReply]:
    """Have an event say that so much is used or spent, by one user or by any.

    The most specific thresholds count: those for the user hide those for all users, and these the
    defaults (80 and 100 percent). A user's own thresholds hide none. What is reached already is
    told at once; of all users within ten minutes.
    """
    by: Literal["operator", "product"] = "operator" if body.user_id is None else "product"
    return threshold_answers.add(body.user_id, body, by=by)


@app.get("/events/thresholds", security=TO_MANAGE, responses=api.answers(ThresholdList, 200))
def list_user_thresholds(
    user_id: Annotated[
        str | None,
        Query(
            pattern=USER_ID_PATTERN,
            description="The thresholds for this user, own ones included. Left out: those for all"
            " users.",
            examples=["customer-42"],
        ),
    ] = None,
) -> Response[ThresholdList]:
    """List the thresholds for a user, or for all users. Defaults are left out."""
    return api.json_response(threshold_answers.of(user_id))


@app.get(
    "/events/thresholds/<threshold_id>",
    security=TO_MANAGE,
    responses=api.answers(ThresholdReply, 200),
)
@api.may_answer("threshold_not_found")
def get_user_threshold(threshold_id: ThresholdId) -> Response[ThresholdReply]:
    """Read one threshold, one of a user's own too."""
    return api.json_response(threshold_answers.one(threshold_id, user_id=None))


@app.patch(
    "/events/thresholds/<threshold_id>",
    security=TO_MANAGE,
    responses=api.answers(ThresholdReply, 200),
)
@api.may_answer("threshold_exists", "threshold_not_found")
def change_user_threshold(
    threshold_id: ThresholdId, body: Annotated[ChangeThreshold, Body()]
) -> Response[ThresholdReply]:
    """Change the percentage or amount of a threshold that your product added.

    What is reached already is told at once; of all users within ten minutes.
    """
    return api.json_response(threshold_answers.change(threshold_id, body, user_id=None))


@app.delete(
    "/events/thresholds/<threshold_id>",
    status_code=204,
    security=TO_MANAGE,
    responses=api.answers(None, 204),
)
@api.may_answer("threshold_not_found")
def delete_user_threshold(threshold_id: ThresholdId) -> Response[None]:
    """Remove a threshold that your product added."""
    threshold_answers.remove(threshold_id, user_id=None)
    return Response(204)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
