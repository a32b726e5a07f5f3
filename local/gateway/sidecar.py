"""A server on loopback for what functions find beside them in AWS: secrets, mail, a clock, Invoke.

- `GET /secretsmanager/get?secretId=...` is the protocol of the AWS Parameters and Secrets Lambda
  extension, so functions read secrets here as they do in AWS.
- `POST /` is Secrets Manager's own protocol, for functions that write a secret.
- `POST /v2/email/outbound-emails` is SES's own protocol. The mails go into the mailbox.
- `POST /` with the target `AWSEvents.PutEvents` is EventBridge's own protocol.
- `GET /clock` answers the current time for the functions, from the stand-in's test clock.
- `POST /2015-03-31/functions/{name}/invocations` is Lambda's own API, so that any AWS SDK, or
  `aws lambda invoke --endpoint-url`, can invoke a function without a route.
"""

import hmac
import json
import threading
import urllib.parse
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from local.event_bus import PUT_EVENTS, EventBus
from local.gateway.functions import (
    Functions,
    InvocationResult,
    RequestTooLargeError,
    TooManyRequestsError,
)
from local.gateway.runtime_api import LOOPBACK, MAX_PAYLOAD_BYTES
from local.gateway.template import ACCOUNT_ID, REGION
from local.mailbox import SEND_EMAIL, Mailbox

TOKEN_HEADER = "X-Aws-Parameters-Secrets-Token"  # noqa: S105 - a header's name
_AWS_TOKEN_HEADER = "X-Amz-Security-Token"  # noqa: S105 - the same, as AWS SDKs send it
_INVOKE, _INVOCATIONS = "/2015-03-31/functions/", "/invocations"

Answer = tuple[int, bytes, dict[str, str]]
Clock = Callable[[], str]


class Sidecar(ThreadingHTTPServer):
    """The server. `functions` is set once the functions exist."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        secrets: MutableMapping[str, str],
        token: str,
        clock: Clock | None,
        mailbox: Mailbox | None = None,
        bus: EventBus | None = None,
    ) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self._mailbox = mailbox or Mailbox()
        self._bus = bus or EventBus()
        self.functions: Functions | None = None
        self._secrets = secrets
        self._token = token
        self._clock = clock
        threading.Thread(
            target=self.serve_forever, args=(0.1,), name="sidecar", daemon=True
        ).start()

    @property
    def port(self) -> int:
        return self.server_port

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def secret(self, query: str, token: str) -> Answer:
        """The answer of the extension."""
        if not self._knows(token):
            return _json(401, {"message": f"{TOKEN_HEADER} is missing or wrong"})
        asked = urllib.parse.parse_qs(query)
        stage = asked.get("versionStage", ["AWSCURRENT"])[0]
        return self._secret(asked.get("secretId", [""])[0], stage)

    def secrets_manager(self, target: str, body: bytes, token: str) -> Answer:
        """The answer of Secrets Manager. `target` names the operation."""
        if not self._knows(token):
            return _secrets_error("UnrecognizedClientException", "The security token is invalid.")
        try:
            asked = json.loads(body)
            wanted = str(asked["SecretId"])
            operation = target.rpartition(".")[2]
            if operation == "PutSecretValue":
                self._secrets[wanted] = str(asked["SecretString"])
                return _json(200, _described(wanted))
        except (ValueError, KeyError, TypeError):
            return _secrets_error("InvalidRequestException", "SecretId or SecretString is missing.")
        if operation == "GetSecretValue":
            return self._secret(wanted, str(asked.get("VersionStage", "AWSCURRENT")))
        return _secrets_error("UnknownOperationException", f"{operation} is not served locally.")

    def send_email(self, body: bytes, token: str) -> Answer:
        """The answer of SES's SendEmail."""
        if not self._knows(token):
            return _error(403, "UnrecognizedClientException", "The security token is invalid.")
        status, answer = self._mailbox.send_email(body)
        return _json(status, answer)

    def put_events(self, body: bytes, token: str) -> Answer:
        """The answer of EventBridge's PutEvents."""
        if not self._knows(token):
            return _json(400, {"__type": "UnrecognizedClientException", "message": "Wrong token."})
        status, answer = self._bus.put_events(body)
        return _json(status, answer)

    def _knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    def _secret(self, wanted: str, stage: str) -> Answer:
        value = self._secrets.get(wanted)
        if value is None or stage != "AWSCURRENT":  # no secret is rotated in a local stack
            return _secrets_error(
                "ResourceNotFoundException", "Secrets Manager can't find the specified secret."
            )
        return _json(200, _described(wanted) | {"SecretString": value})

    def now(self) -> Answer:
        if self._clock is None:
            return _json(404, {"message": "Not Found"})
        return _json(200, {"now": self._clock()})

    def invoke(self, name: str, event: bytes, kind: str) -> Answer:
        """The answer of Lambda's Invoke. `kind` is the header X-Amz-Invocation-Type."""
        functions = self.functions
        if functions is None or name not in functions:
            return _error(404, "ResourceNotFoundException", f"Function not found: {name}")
        event = event or b"{}"
        try:
            json.loads(event)
            if kind == "RequestResponse":
                return _invoked(functions.invoke(name, event))
        except ValueError as error:
            return _error(400, "InvalidRequestContentException", f"Not JSON: {error}")
        except RequestTooLargeError:
            return _error(413, "RequestTooLargeException", "The event is larger than 6 MB.")
        except TooManyRequestsError:
            return _error(429, "TooManyRequestsException", "Rate Exceeded.")
        if kind == "Event":
            threading.Thread(target=functions.invoke, args=(name, event), daemon=True).start()
        return (202 if kind == "Event" else 204), b"", {}


def _bare(name: str) -> str:
    """Returns the function's name. It may be in an ARN and have a version or an alias, as in
    Lambda.
    """
    return name.split(":")[6 if name.startswith("arn:") else 0]


def _invoked(result: InvocationResult) -> Answer:
    headers = {"X-Amz-Executed-Version": "$LATEST", "x-amzn-RequestId": result.request_id}
    if result.failed:
        headers["X-Amz-Function-Error"] = "Unhandled"
    return 200, result.payload, headers


def _described(secret_id: str) -> dict[str, Any]:
    return {
        "ARN": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT_ID}:secret:{secret_id}",
        "Name": secret_id,
        "VersionId": "local",
        "VersionStages": ["AWSCURRENT"],
    }


def _secrets_error(kind: str, message: str) -> Answer:
    return _json(400, {"__type": kind, "Message": message})


def _json(status: int, document: Mapping[str, Any]) -> Answer:
    return status, json.dumps(document).encode(), {"Content-Type": "application/json"}


def _error(status: int, kind: str, message: str) -> Answer:
    status, body, headers = _json(status, {"Type": "User", "message": message})
    return status, body, headers | {"x-amzn-ErrorType": kind}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Sidecar

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        if self._from_a_browser():
            self._reply(_json(403, {"message": "Forbidden"}))
        elif url.path == "/secretsmanager/get":
            self._reply(self.server.secret(url.query, self.headers.get(TOKEN_HEADER, "")))
        elif url.path == "/clock":
            self._reply(self.server.now())
        else:
            self._reply(_json(404, {"message": "Not Found"}))

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        path = urllib.parse.urlsplit(self.path).path
        if self._from_a_browser() or length > 2 * MAX_PAYLOAD_BYTES:
            self.close_connection = True
            self._reply(_json(403, {"message": "Forbidden"}))
            return
        event = self.rfile.read(length)
        if target := self.headers.get("X-Amz-Target"):
            token = self.headers.get(_AWS_TOKEN_HEADER, "")
            if target == PUT_EVENTS:
                self._reply(self.server.put_events(event, token))
            else:
                self._reply(self.server.secrets_manager(target, event, token))
        elif path == SEND_EMAIL:
            self._reply(self.server.send_email(event, self.headers.get(_AWS_TOKEN_HEADER, "")))
        elif path.startswith(_INVOKE) and path.endswith(_INVOCATIONS):
            name = urllib.parse.unquote(path[len(_INVOKE) : -len(_INVOCATIONS)])
            kind = self.headers.get("X-Amz-Invocation-Type", "RequestResponse")
            self._reply(self.server.invoke(_bare(name), event, kind))
        else:
            self._reply(_json(404, {"message": "Not Found"}))

    def _from_a_browser(self) -> bool:
        """Returns whether a browser sent the request. Only programs on this machine may use
        this server.
        """
        host = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname
        return "Origin" in self.headers or host not in {LOOPBACK, "localhost"}

    def _reply(self, answer: Answer) -> None:
        status, body, headers = answer
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        try:
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:  # the function's time was up, or the stack stops
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Logs nothing, because the requests read secrets."""


def wall_clock() -> str:
    """The current wall time, in the format of `/clock`."""
    return datetime.now(UTC).isoformat()
