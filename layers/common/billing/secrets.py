"""The only module that reads secrets.

Environment variables name secrets; values come, on first use, from the AWS Parameters and Secrets
Lambda extension where it is there (it answers only while an invocation runs, so nothing here is
called at import), else from Secrets Manager through boto3, imported late because it costs a cold
start half a second. The local stack serves the extension's protocol too.
"""

import http.client
import json
import os
import threading
from typing import Any, Protocol
from urllib.parse import quote

from billing.errors import Unavailable


class SecretStore(Protocol):
    """Where secrets come from."""

    def get(self, secret_id: str) -> str:
        """The current value; raises Unavailable when it cannot be read."""


class ExtensionStore:
    """Reads through the Parameters and Secrets extension on this machine's loopback.

    Protocol: AWS Secrets Manager user guide, "Use AWS Secrets Manager secrets in AWS Lambda".
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, secret_id: str) -> str:
        connection = http.client.HTTPConnection("localhost", self._port, timeout=3)
        try:
            connection.request(
                "GET",
                f"/secretsmanager/get?secretId={quote(secret_id, safe='')}",
                headers={"X-Aws-Parameters-Secrets-Token": os.environ.get("AWS_SESSION_TOKEN", "")},
            )
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise Unavailable from RuntimeError(f"secrets extension: HTTP {answer.status}")
            return _text(json.loads(body))
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable from error
        except ValueError:  # not chained: a decoder's message holds what it could not decode
            raise Unavailable("A secret of this stack cannot be read.") from None
        finally:
            connection.close()


class SecretsManagerStore:
    """Reads from Secrets Manager itself, or from what stands in for it at `endpoint`."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def get(self, secret_id: str) -> str:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        config = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})
        try:
            client = boto3.client("secretsmanager", config=config, endpoint_url=self._endpoint)
            return _text(client.get_secret_value(SecretId=secret_id))
        except (BotoCoreError, ClientError) as error:
            raise Unavailable from error


def _text(answer: object) -> str:
    """The text of a secret; a binary one has none. Raises Unavailable."""
    text = answer.get("SecretString") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise Unavailable("A secret of this stack is not text.")
    return text


class Secrets:
    """Secrets by id, kept for the life of the environment and read again on demand.

    Safe for threads, of which one at a time reads a store: boto3's default session is not.
    """

    def __init__(self, store: SecretStore) -> None:
        self._store = store
        self._values: dict[str, str] = {}
        self._lock = threading.Lock()

    def text(self, secret_id: str, *, fresh: bool = False) -> str:
        """The secret as it is stored. `fresh` reads it again: it may have been rotated."""
        if not secret_id:
            raise RuntimeError("This function was not told where that secret is.")
        known = self._values.get(secret_id)
        if known is not None and not fresh:
            return known
        with self._lock:
            # Whoever had to wait here takes what was read meanwhile: it is as fresh as can be.
            if self._values.get(secret_id) in (None, known):
                self._values[secret_id] = self._store.get(secret_id)
            return self._values[secret_id]

    def fields(self, secret_id: str, *, fresh: bool = False) -> dict[str, Any]:
        """A secret that is a JSON object; raises Unavailable when it is not one."""
        try:
            value = json.loads(self.text(secret_id, fresh=fresh))
        except ValueError:
            # Not chained: the decoder's message would carry the secret into a log.
            raise Unavailable("A secret of this stack is not valid JSON.") from None
        if not isinstance(value, dict):
            raise Unavailable("A secret of this stack is not a JSON object.")
        return value
