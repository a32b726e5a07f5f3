"""Fills the Secrets Manager of docker-compose.yml with what the functions read.

    python -m local.sam_local

Prints a service key, another one each time. The rest stays as it is: docs/sam-local.md.
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

# As docker-compose.yml has them; they open nothing but this machine.
DATABASE = {"username": "billing_app", "password": "local-app"}
DATABASE_OWNER = {"username": "billing_owner", "password": "local-owner"}
COMMET_KEY = "ck_sandbox_local"

_ENDPOINT = "http://127.0.0.1:5000"


def fill(client: Any) -> str:
    """Writes all secrets; what the webhook has, it keeps. Returns a new service key."""
    key = f"svc_local_{secrets.token_hex(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    scopes = ["usage:write", "usage:correct", "read"]
    _write(client, "local/database", json.dumps(DATABASE))
    _write(client, "local/database-owner", json.dumps(DATABASE_OWNER))
    _write(client, "local/commet", json.dumps({"api_key": COMMET_KEY}))
    _write(
        client,
        "local/service-keys",
        json.dumps({"keys": [{"name": "local", "sha256": digest, "scopes": scopes}]}),
    )
    _write(client, "local/app", secrets.token_urlsafe(32), keep=True)
    _write(client, "local/webhook", json.dumps({"secrets": []}), keep=True)
    return key


def _write(client: Any, name: str, text: str, *, keep: bool = False) -> None:
    try:
        client.create_secret(Name=name, SecretString=text)
    except client.exceptions.ResourceExistsException:
        if not keep:
            client.put_secret_value(SecretId=name, SecretString=text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m local.sam_local", description=__doc__)
    parser.add_argument("--endpoint", default=_ENDPOINT, help=f"of Secrets Manager ({_ENDPOINT})")
    endpoint = parser.parse_args(arguments).endpoint
    client = boto3.client(
        "secretsmanager",
        endpoint_url=endpoint,
        region_name="us-east-1",  # where SAM CLI's containers look, unless told otherwise
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 - moto takes any
        # Who is not there now is not there in a moment: say so at once.
        config=Config(retries={"total_max_attempts": 1}),
    )
    try:
        key = fill(client)
    except (BotoCoreError, ClientError) as error:
        print(f"No Secrets Manager at {endpoint} ({error}): docker compose up?", file=sys.stderr)
        return 1
    print(f"Secrets are there. A service key for usage:\n{key}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
