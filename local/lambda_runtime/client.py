"""A small client of the Lambda Runtime API, for platforms for which `awslambdaric` has no wheel.

The gateway runs it once for each worker: `python client.py <module>.<function>`. Like the real
client, it imports the handler, asks for one invocation after the other, and posts each answer or
error. It uses the standard library only, because it runs under the functions' own interpreter.
"""

import http.client
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, NoReturn

API = "/2018-06-01/runtime"

Handler = Callable[[Any, "Context"], Any]


class Context:
    """The second argument of a handler, as Lambda's documentation describes it."""

    def __init__(self, headers: http.client.HTTPMessage) -> None:
        self.aws_request_id = headers["Lambda-Runtime-Aws-Request-Id"]
        self.invoked_function_arn = headers["Lambda-Runtime-Invoked-Function-Arn"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.client_context = None
        self.identity = SimpleNamespace(cognito_identity_id=None, cognito_identity_pool_id=None)
        self.tenant_id = None
        self._deadline_ms = int(headers["Lambda-Runtime-Deadline-Ms"])

    def get_remaining_time_in_millis(self) -> int:
        """The milliseconds until the invocation's time limit; zero after it."""
        return max(self._deadline_ms - int(time.time() * 1000), 0)


class RuntimeApi:
    """The four calls of the Runtime API, over one connection."""

    def __init__(self, address: str) -> None:
        # No timeout: /next waits until there is an invocation, which may take hours.
        self._connection = http.client.HTTPConnection(address)

    def next_invocation(self) -> tuple[http.client.HTTPMessage, bytes]:
        self._connection.request("GET", f"{API}/invocation/next")
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise ConnectionError(f"Runtime API answered {response.status}")
        return response.headers, body

    def post(self, path: str, body: str, headers: dict[str, str] | None = None) -> int:
        self._connection.request(
            "POST",
            f"{API}{path}",
            body.encode(),
            {"Content-Type": "application/json"} | (headers or {}),
        )
        response = self._connection.getresponse()
        response.read()
        return response.status

    def post_error(self, path: str, error: BaseException, request_id: str | None = None) -> None:
        document = describe(error, request_id)
        print(f"[ERROR] {document['errorType']}: {document['errorMessage']}")
        print("".join(document["stackTrace"]), end="")
        self.post(
            path,
            json.dumps(document),
            {"Lambda-Runtime-Function-Error-Type": f"Runtime.{document['errorType']}"},
        )


def describe(error: BaseException, request_id: str | None) -> dict[str, Any]:
    """Returns the error document with which Lambda answers the caller of a function that raised."""
    document: dict[str, Any] = {
        "errorMessage": str(error),
        "errorType": type(error).__name__,
        "stackTrace": traceback.format_tb(error.__traceback__)[1:],
    }
    return document if request_id is None else document | {"requestId": request_id}


def load(handler: str) -> Handler:
    """Returns the function named `module.function` (or `package/module.function`)."""
    module, _, name = handler.rpartition(".")
    found: Handler = getattr(importlib.import_module(module.replace("/", ".")), name)
    return found


def serialise(answer: object) -> str:
    """Returns the answer in Lambda's JSON: decimals as numbers, non-ASCII characters unescaped."""
    return json.dumps(answer, ensure_ascii=False, default=_number)


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def run(handler_name: str, api: RuntimeApi) -> NoReturn:
    """Serves invocations until the process is ended."""
    try:
        handler = load(handler_name)
    except BaseException as error:  # noqa: BLE001 - Lambda reports every error of the import
        api.post_error("/init/error", error)
        sys.exit(1)
    while True:
        headers, event = api.next_invocation()
        context = Context(headers)
        os.environ["_X_AMZN_TRACE_ID"] = headers.get("Lambda-Runtime-Trace-Id", "")
        path = f"/invocation/{context.aws_request_id}"
        try:
            answer = serialise(handler(json.loads(event), context))
        except Exception as error:  # noqa: BLE001 - a handler may raise anything
            api.post_error(f"{path}/error", error, context.aws_request_id)
        else:
            api.post(f"{path}/response", answer)


if __name__ == "__main__":
    # If Python runs a file, the file's directory comes first on the path. The real client is run
    # with -m, so the working directory comes first, which contains the function's code.
    sys.path[0] = str(os.getcwd())  # noqa: PTH109 - pathlib costs a cold start milliseconds
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        run(sys.argv[1], RuntimeApi(os.environ["AWS_LAMBDA_RUNTIME_API"]))
    except (KeyboardInterrupt, ConnectionError, http.client.HTTPException):
        # The gateway has ended, so nobody would read an error report.
        sys.exit(1)
