"""Brings the database's tables up to date. Each deployment invokes it; by hand, use {}."""

from typing import Any

import psycopg
from aws_lambda_powertools import Logger

from billing import wiring
from billing.database import privileges
from billing.database.connection import connector
from billing.database.migrate import MigrationChanged, migrate
from billing.database.probe import RoleCannotWork, probe
from billing.deadline import Deadline, LambdaContext
from billing.deployment import custom_resource
from billing.deployment.custom_resource import Done, Request

logger = Logger()

_RESOURCE = "migrations"


class NotPublished(Exception):
    """The code changed but BuildId did not, so the functions would keep running the old code."""


def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Applies missing migrations. Returns their names, or the answer to CloudFormation.

    If a person invoked the function, raises the migration's error. CloudFormation gets the error as
    the reason of a failure. An event of any other kind changes nothing.
    """
    # The reserved seconds are for the answer with the reason of a failure.
    deadline = Deadline.of_invocation(context, reserve=15)
    if not custom_resource.is_request(event):
        return custom_resource.refuse(event, logger) or {"applied": _migrate(deadline)}
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
    # When the stack is deleted, the data remains.
    applied = [] if request.kind == "Delete" else _migrate(deadline)
    return Done(request.resource_id or _RESOURCE, f"{len(applied)} applied")


def _check_build(request: Request) -> None:
    """Raises NotPublished if the layer is newer and BuildId has not changed.

    An older layer is allowed, because CloudFormation may be rolling this deployment back.
    """
    now, before = request.properties, request.properties_before
    if now.get("BuildId") != before.get("BuildId") or "Layer" not in before:
        return
    if _number(now["Layer"]) > _number(before["Layer"]):
        raise NotPublished("The code changed, but BuildId did not. Deploy with `make deploy`.")


def _number(layer_arn: str) -> int:
    return int(layer_arn.rpartition(":")[2])


def _migrate(deadline: Deadline) -> list[str]:
    settings, secrets = wiring.settings(), wiring.secrets()
    logins = [
        (settings.database.secret_id, privileges.APP),
        (settings.accounts_secret_id, privileges.ACCOUNTS),
    ]
    if settings.pages:
        logins.append((settings.accounts_secret_id, privileges.PAGES))
    roles = [(str(secrets.login(each)["username"]), granted) for each, granted in logins]
    connect = connector(settings.database, secrets, "migrate", secret_id=settings.owner_secret_id)
    applied = migrate(connect, roles, deadline=deadline)
    # Check every role now. Otherwise the first request would find out that a role cannot work.
    for (secret_id, _), (role, granted) in zip(logins, roles, strict=True):
        connect = connector(settings.database, secrets, "migrate", secret_id=secret_id)
        probe(role, granted, connect)
    logger.info("migrate.done", applied=applied)
    return applied


def _reason(error: Exception) -> str:
    if isinstance(error, psycopg.Error | MigrationChanged | NotPublished | RoleCannotWork):
        notes = " ".join(getattr(error, "__notes__", ()))
        return f"{type(error).__name__}: {error} {notes}".strip()
    return f"The tables could not be brought up to date: {custom_resource.explained(error)}"
