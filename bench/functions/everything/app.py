"""A function that imports everything at its top, with Commet's official SDK, for comparison."""

from typing import Any

import argon2
import boto3
import commet
import httpx
import psycopg
import pydantic
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing.delivery import outbox
from billing.http import api, sign_in
from billing.operations import reconcile
from billing.subscriptions import checkout, inbox
from billing.usage import accepting

IMPORTED = (
    argon2,
    boto3,
    commet,
    httpx,
    psycopg,
    pydantic,
    api,
    checkout,
    outbox,
    reconcile,
    sign_in,
    accepting,
    inbox,
)

logger = Logger()
metrics = Metrics()
app = APIGatewayHttpResolver(enable_validation=True)


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    return {"imported": len(IMPORTED)}
