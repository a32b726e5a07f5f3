"""Brings the tables up to date: called by each deployment, or by hand with {}."""

from typing import Any

import psycopg
from aws_lambda_powertools import Logger

from billing import wiring
from billing.database.connection import connector
from billing.database.migrate import MigrationChanged, migrate
from billing.deadline import Deadline, LambdaContext
from billing.deployment import custom_resource
from billing.deployment.custom_resource import Done, Request

logger = Logger()

_RESOURCE = "migrations"


class NotPublished(Exception):
    """A deployment that would leave the functions' versions as they are, on the old code."""


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """The names applied; raises what went wrong, unless CloudFormation is told instead."""
    # What is left of the time is for saying what went wrong.
    deadline = Deadline.of_invocation(context, reserve=15)
    if not custom_resource.is_request(event):
        return {"applied": _migrate(deadline)}
    return custom_resource.fulfil(
        event,
        context,
        lambda request: _fulfil(request, deadline),
        resource_id=_RESOURCE,
        reason=_reason,
        log=logger,
    )


def _fulfil(request: Request, deadline: Deadline) -> Done:
    _check_build(request)
    # Deleting the stack leaves the data alone.
    applied = [] if request.kind == "Delete" else _migrate(deadline)
    return Done(request.resource_id or _RESOURCE, f"{len(applied)} applied")


def _check_build(request: Request) -> None:
    """Raises NotPublished for a newer layer under the same build id.

    Not for an older one: that is this very deployment, being taken back.
    """
    now, before = request.properties, request.properties_before
    if now.get("BuildId") != before.get("BuildId") or "Layer" not in before:
        return
    if _number(now["Layer"]) > _number(before["Layer"]):
        raise NotPublished("The code has changed and BuildId has not. Deploy with `make deploy`.")


def _number(layer_arn: str) -> int:
    return int(layer_arn.rpartition(":")[2])


def _migrate(deadline: Deadline) -> list[str]:
    settings, secrets = wiring.settings(), wiring.secrets()
    app_role = str(secrets.login(settings.database.secret_id)["username"])
    connect = connector(settings.database, secrets, "migrate", secret_id=settings.owner_secret_id)
    applied = migrate(connect, app_role, deadline=deadline)
    logger.info("migrate.done", applied=applied)
    return applied


def _reason(error: Exception) -> str:
    if isinstance(error, psycopg.Error | MigrationChanged | NotPublished):
        return f"{type(error).__name__}: {error}"
    return f"The tables could not be brought up to date: {custom_resource.explained(error)}"
