"""The only module that reads and writes secrets.

Environment variables name secrets; values come, on first use, from the AWS Parameters and Secrets
Lambda extension where it is there (it answers only while an invocation runs, so nothing here is
called at import), else from Secrets Manager through boto3, imported late because it costs a cold
start half a second. The local stack serves the extension's protocol too.
"""

import http.client
import json
import logging
import os
import threading
import time
from typing import Any, Literal, Protocol
from urllib.parse import quote

from billing.errors import Unavailable

# It tells at INFO where it has found credentials, which Lambda prints.
logging.getLogger("botocore").setLevel(logging.WARNING)

# While a secret is rotated the next value is there as AWSPENDING, before it becomes AWSCURRENT.
Stage = Literal["AWSCURRENT", "AWSPENDING"]


class SecretStore(Protocol):
    """Where secrets come from."""

    def get(self, secret_id: str, stage: Stage = "AWSCURRENT", /) -> str:
        """The value at that stage; raises Unavailable when it cannot be read."""


class ExtensionStore:
    """Reads through the Parameters and Secrets extension on this machine's loopback.

    Protocol: AWS Secrets Manager user guide, "Use AWS Secrets Manager secrets in AWS Lambda".
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, secret_id: str, stage: Stage = "AWSCURRENT", /) -> str:
        wanted = f"secretId={quote(secret_id, safe='')}"
        if stage != "AWSCURRENT":
            wanted += f"&versionStage={stage}"
        connection = http.client.HTTPConnection("localhost", self._port, timeout=3)
        try:
            connection.request(
                "GET",
                f"/secretsmanager/get?{wanted}",
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
    """Secrets Manager itself, or what stands in for it at `endpoint`."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def get(self, secret_id: str, stage: Stage = "AWSCURRENT", /) -> str:
        return _text(self._call("get_secret_value", SecretId=secret_id, VersionStage=stage))

    def put(self, secret_id: str, text: str) -> None:
        """Makes `text` the current value; raises Unavailable when it cannot be written."""
        self._call("put_secret_value", SecretId=secret_id, SecretString=text)

    def _call(self, operation: str, **arguments: str) -> object:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        config = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})
        try:
            client = boto3.client("secretsmanager", config=config, endpoint_url=self._endpoint)
            return getattr(client, operation)(**arguments)
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
        self._read_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def text(
        self, secret_id: str, *, fresh: bool = False, max_age_seconds: float | None = None
    ) -> str:
        """The secret as it is stored. `fresh` reads it again: it may have been rotated.

        One that was read longer than `max_age_seconds` ago is read again too, because what was
        taken out of it shall not be believed for ever; where that fails, what is known stays.
        """
        if not secret_id:
            raise RuntimeError("This function was not told where that secret is.")
        known = self._values.get(secret_id)
        if known is not None and not fresh and not self._is_old(secret_id, max_age_seconds):
            return known
        with self._lock:
            # Whoever had to wait here takes what was read meanwhile: it is as fresh as can be.
            if self._values.get(secret_id) in (None, known):
                try:
                    value = self._store.get(secret_id)
                except Unavailable as error:
                    if known is None or fresh:
                        _name(error, secret_id)
                        raise
                    value = known
                # Also where that failed: a store that is out of reach is not asked every time.
                self._read_at[secret_id] = time.monotonic()
                self._values[secret_id] = value
            return self._values[secret_id]

    def fields(
        self, secret_id: str, *, fresh: bool = False, max_age_seconds: float | None = None
    ) -> dict[str, Any]:
        """A secret that is a JSON object; raises Unavailable when it is not one."""
        text = self.text(secret_id, fresh=fresh, max_age_seconds=max_age_seconds)
        try:
            return parse(text)
        except Unavailable as error:
            _name(error, secret_id)
            raise

    def login(self, secret_id: str, *, fresh: bool = False) -> dict[str, Any]:
        """A secret with username and password; raises Unavailable when one of them is missing."""
        found = self.fields(secret_id, fresh=fresh)
        if missing := [name for name in ("username", "password") if not found.get(name)]:
            error = Unavailable(f"A secret of this stack has no {' and no '.join(missing)}.")
            _name(error, secret_id)
            raise error
        return found

    def pending(self, secret_id: str) -> dict[str, Any] | None:
        """What is about to become current while it is being rotated; None at other times."""
        try:
            return parse(self._store.get(secret_id, "AWSPENDING"))
        except Unavailable:
            return None

    def _is_old(self, secret_id: str, max_age_seconds: float | None) -> bool:
        if max_age_seconds is None:
            return False
        return time.monotonic() - self._read_at[secret_id] >= max_age_seconds


def _name(error: Unavailable, secret_id: str) -> None:
    """In a note, which goes to logs and to who deploys, and never into an answer."""
    error.add_note(f"Secret: {secret_id}")


def parse(text: str) -> dict[str, Any]:
    """A secret that is a JSON object; raises Unavailable when it is not one."""
    try:
        value = json.loads(text)
    except ValueError:
        # Not chained: the decoder's message would carry the secret into a log.
        raise Unavailable("A secret of this stack is not valid JSON.") from None
    if not isinstance(value, dict):
        raise Unavailable("A secret of this stack is not a JSON object.")
    return value
