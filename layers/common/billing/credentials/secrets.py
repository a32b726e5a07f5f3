"""Reads and writes secrets. No other module does.

Environment variables hold the ids of secrets. A value is read on first use: from the AWS Parameters
and Secrets Lambda extension if it runs, else from Secrets Manager through boto3. The extension
answers only during an invocation, so nothing here is read at import. boto3 is imported late,
because it adds half a second to a cold start. The local stack offers the extension's protocol too.
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

# At INFO, botocore logs where it found credentials, and Lambda would print these lines.
logging.getLogger("botocore").setLevel(logging.WARNING)

# During a rotation the next value has the stage AWSPENDING, until it becomes AWSCURRENT.
Stage = Literal["AWSCURRENT", "AWSPENDING"]


class SecretStore(Protocol):
    """A store from which secrets are read."""

    def get(self, secret_id: str, stage: Stage = "AWSCURRENT", /) -> str:
        """Returns the secret's value at that stage. Raises Unavailable if it cannot be read."""


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
        except ValueError:  # not chained: the decoder's message quotes the secret
            raise Unavailable("A secret of this stack cannot be read.") from None
        finally:
            connection.close()


class SecretsManagerStore:
    """Reads from Secrets Manager, or from the server at `endpoint` that behaves like it."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def get(self, secret_id: str, stage: Stage = "AWSCURRENT", /) -> str:
        return _text(self._call("get_secret_value", SecretId=secret_id, VersionStage=stage))

    def put(self, secret_id: str, text: str) -> None:
        """Makes `text` the secret's current value. Raises Unavailable if that fails."""
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
    """Returns the text in a store's answer. Raises Unavailable, also for a binary secret."""
    text = answer.get("SecretString") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise Unavailable("A secret of this stack is not text.")
    return text


class Secrets:
    """Secrets by id. They are kept in memory as long as the environment lives, and read again on
    demand.

    Several threads may use it. Only one of them at a time reads the store, because boto3's default
    session cannot be shared.
    """

    def __init__(self, store: SecretStore) -> None:
        self._store = store
        self._values: dict[str, str] = {}
        self._read_at: dict[str, float] = {}
        self._parsed: dict[str, tuple[str, dict[str, Any]]] = {}  # by id: the text and its fields
        self._lock = threading.Lock()

    def text(
        self, secret_id: str, *, fresh: bool = False, max_age_seconds: float | None = None
    ) -> str:
        """Returns the secret's text. With `fresh` it is read again, because it may have been
        rotated.

        A text that was read longer than `max_age_seconds` ago is read again too, so that a key that
        was removed from the secret stops working. If that read fails, the known text is returned.
        Raises Unavailable if no text is known or a fresh read fails.
        """
        if not secret_id:
            raise RuntimeError("This function's environment does not name the secret.")
        known = self._values.get(secret_id)
        if known is not None and not fresh and not self._is_old(secret_id, max_age_seconds):
            return known
        with self._lock:
            # Another thread may have read the secret while this one waited for the lock. That value
            # is new enough.
            if self._values.get(secret_id) in (None, known):
                try:
                    value = self._store.get(secret_id)
                except Unavailable as error:
                    if known is None or fresh:
                        name_secret(error, secret_id)
                        raise
                    value = known
                # Set after a failed read too, so that an unreachable store is not read with every
                # request.
                self._read_at[secret_id] = time.monotonic()
                self._values[secret_id] = value
            return self._values[secret_id]

    def fields(
        self, secret_id: str, *, fresh: bool = False, max_age_seconds: float | None = None
    ) -> dict[str, Any]:
        """Returns the fields of a secret that is a JSON object. Raises Unavailable if it is not
        one.

        Callers share the dictionary, and do not change it. The text is parsed once, because every
        request reads the service keys.
        """
        text = self.text(secret_id, fresh=fresh, max_age_seconds=max_age_seconds)
        known = self._parsed.get(secret_id)
        if known is not None and known[0] == text:
            return known[1]
        try:
            fields = parse(text)
        except Unavailable as error:
            name_secret(error, secret_id)
            raise
        self._parsed[secret_id] = text, fields
        return fields

    def login(self, secret_id: str, *, fresh: bool = False) -> dict[str, Any]:
        """Returns a secret's username and password. Raises Unavailable if one of them is
        missing.
        """
        found = self.fields(secret_id, fresh=fresh)
        if missing := [name for name in ("username", "password") if not found.get(name)]:
            error = Unavailable(f"A secret of this stack has no {' and no '.join(missing)}.")
            name_secret(error, secret_id)
            raise error
        return found

    def pending(self, secret_id: str) -> dict[str, Any] | None:
        """Returns the next value of a secret that is being rotated; None at other times."""
        try:
            return parse(self._store.get(secret_id, "AWSPENDING"))
        except Unavailable:
            return None

    def _is_old(self, secret_id: str, max_age_seconds: float | None) -> bool:
        if max_age_seconds is None:
            return False
        return time.monotonic() - self._read_at[secret_id] >= max_age_seconds


def name_secret(error: Exception, secret_id: str) -> None:
    """Adds the secret's id to the error as a note. Notes are logged, but never part of an
    answer.
    """
    error.add_note(f"Secret: {secret_id}")


def parse(text: str) -> dict[str, Any]:
    """Returns the fields of a secret's text. Raises Unavailable if it is not a JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        # Not chained, because the decoder's error contains the secret and could be logged.
        raise Unavailable("A secret of this stack is not valid JSON.") from None
    if not isinstance(value, dict):
        raise Unavailable("A secret of this stack is not a JSON object.")
    return value
