"""Writes the functions' secrets into the Secrets Manager of docker-compose.yml.

    python -m local.sam_local

Prints a service key, which is a new one each time. docs/sam-local.md explains the use.
"""

import argparse
import hashlib
import json
import secrets
import sys
from collections.abc import Sequence
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# The same logins are in docker-compose.yml. They are valid on this machine only.
DATABASE = {"username": "billing_app", "password": "local-app"}
DATABASE_ACCOUNTS = {"username": "billing_accounts", "password": "local-accounts"}
DATABASE_OWNER = {"username": "billing_owner", "password": "local-owner"}
COMMET_KEY = "ck_sandbox_local"

_ENDPOINT = "http://127.0.0.1:5000"


def fill(client: Any) -> str:
    """Writes all secrets. Does not change existing webhook and app secrets. Returns a new
    service key.
    """
    key = f"svc_local_{secrets.token_hex(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    scopes = [
        "usage:write",
        "usage:correct",
        "read",
        "billing:manage",
        "users:manage",
        "events:manage",
    ]
    _write(client, "local/database", json.dumps(DATABASE))
    _write(client, "local/database-accounts", json.dumps(DATABASE_ACCOUNTS))
    _write(client, "local/database-owner", json.dumps(DATABASE_OWNER))
    _write(client, "local/commet", json.dumps({"api_key": COMMET_KEY}))
    _write(
        client,
        "local/service-keys",
        json.dumps({"keys": [{"name": "local", "sha256": digest, "scopes": scopes}]}),
    )
    for name in ("local/app", "local/people"):
        _write(client, name, secrets.token_urlsafe(32), keep=True)
    _write(client, "local/webhook", json.dumps({"secrets": []}), keep=True)
    return key


def _write(client: Any, name: str, text: str, *, keep: bool = False) -> None:
    try:
        client.create_secret(Name=name, SecretString=text)
    except client.exceptions.ResourceExistsException:
        if not keep:
            client.put_secret_value(SecretId=name, SecretString=text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.sam_local", description=__doc__)
    parser.add_argument(
        "--endpoint", default=_ENDPOINT, help=f"address of Secrets Manager ({_ENDPOINT})"
    )
    endpoint = parser.parse_args(arguments).endpoint
    client = boto3.client(
        "secretsmanager",
        endpoint_url=endpoint,
        region_name="us-east-1",  # the region that SAM CLI's containers use by default
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 - moto accepts any key
        # A server that does not answer now will not answer soon, so report that at once.
        config=Config(retries={"total_max_attempts": 1}),
    )
    try:
        key = fill(client)
    except (BotoCoreError, ClientError) as error:
        print(
            f"Secrets Manager at {endpoint} does not answer ({error}). Run: docker compose up",
            file=sys.stderr,
        )
        return 1
    print(f"The secrets are written. A service key for usage:\n{key}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
