"""For comparison: a function that imports everything at its top, which nobody should write.

That is every module of the layer, every package they use, boto3, and Commet's official SDK.
"""

import pkgutil
from importlib import import_module
from typing import Any

import argon2
import boto3
import commet
import cryptography
import httpx
import jinja2
import jwt
import psycopg
import pydantic
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

import billing

OURS = [
    import_module(found.name)
    for found in pkgutil.walk_packages(billing.__path__, f"{billing.__name__}.")
]
IMPORTED = (
    *OURS,
    argon2,
    boto3,
    commet,
    cryptography,
    httpx,
    jinja2,
    jwt,
    psycopg,
    pydantic,
)

logger = Logger()
metrics = Metrics()
app = APIGatewayHttpResolver(enable_validation=True)


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    return {"imported": len(IMPORTED)}
