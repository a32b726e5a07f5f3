"""Brings the tables up to date: called by each deployment, or by hand with {}."""

import json
from typing import Any
from urllib.request import Request, urlopen

import psycopg
from aws_lambda_powertools import Logger

from billing import wiring
from billing.db import connector
from billing.deadline import LambdaContext
from billing.errors import BillingError
from billing.migrations import MigrationChanged, migrate

logger = Logger()


def handler(event: dict[str, Any], _: LambdaContext) -> dict[str, Any]:
    """The names applied; raises what went wrong, unless CloudFormation is told instead."""
    if "ResponseURL" not in event:
        return {"applied": _migrate()}
    outcome = {"Status": "FAILED", "Reason": "The migrations did not finish."}
    try:
        # Deleting the stack leaves the data alone.
        applied = [] if event["RequestType"] == "Delete" else _migrate()
        outcome = {"Status": "SUCCESS", "Reason": f"{len(applied)} applied"}
    except (psycopg.Error, MigrationChanged, BillingError) as error:
        logger.exception("migrate.failed")
        outcome["Reason"] = _readable(error)
    finally:
        _answer(event, outcome)  # or CloudFormation waits for an hour
    return outcome


def _migrate() -> list[str]:
    settings, secrets = wiring.settings(), wiring.secrets()
    app_role = str(secrets.fields(settings.database.secret_id)["username"])
    connect = connector(settings.database, secrets, "migrate", secret_id=settings.owner_secret_id)
    applied = migrate(connect, app_role)
    logger.info("migrate.done", applied=applied)
    return applied


def _readable(error: Exception) -> str:
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__}: {primary or error}"[:1000]


def _answer(event: dict[str, Any], outcome: dict[str, str]) -> None:
    body = outcome | {
        "PhysicalResourceId": event.get("PhysicalResourceId", "migrations"),
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
    }
    request = Request(  # noqa: S310 - CloudFormation's own presigned https address
        event["ResponseURL"],
        data=json.dumps(body).encode(),
        method="PUT",
        # The address is signed for no content type, and urllib would name one.
        headers={"Content-Type": ""},
    )
    with urlopen(request, timeout=10) as answer:  # noqa: S310
        answer.read()
