"""Brings the tables up to date: called by each deployment, or by hand with {}."""

from typing import Any

import psycopg
from aws_lambda_powertools import Logger

from billing import custom_resource, wiring
from billing.custom_resource import Done, Request
from billing.db import connector
from billing.deadline import LambdaContext
from billing.errors import BillingError
from billing.migrations import MigrationChanged, migrate

logger = Logger()

_RESOURCE = "migrations"


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """The names applied; raises what went wrong, unless CloudFormation is told instead."""
    if not custom_resource.is_request(event):
        return {"applied": _migrate()}
    return custom_resource.fulfil(
        event, context, _fulfil, resource_id=_RESOURCE, reason=_reason, log=logger
    )


def _fulfil(request: Request) -> Done:
    # Deleting the stack leaves the data alone.
    applied = [] if request.kind == "Delete" else _migrate()
    return Done(request.resource_id or _RESOURCE, f"{len(applied)} applied")


def _migrate() -> list[str]:
    settings, secrets = wiring.settings(), wiring.secrets()
    app_role = str(secrets.fields(settings.database.secret_id)["username"])
    connect = connector(settings.database, secrets, "migrate", secret_id=settings.owner_secret_id)
    applied = migrate(connect, app_role)
    logger.info("migrate.done", applied=applied)
    return applied


def _reason(error: Exception) -> str:
    if isinstance(error, psycopg.Error):
        return f"{type(error).__name__}: {error.diag.message_primary or error}"
    if isinstance(error, MigrationChanged | BillingError):
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__}; see the function's log."
