"""Answering CloudFormation: it waits for one PUT to a presigned address, whatever happens.

An answer is given in any case, once: success, a failure with a reason that a person can read, or,
just before the function's own time limit, that it took too long. What went wrong is logged and not
raised: Lambda would run the request again after CloudFormation has long rolled it back.
"""

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Timer
from typing import Any, Literal, Protocol
from urllib.error import URLError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from billing.config import Misconfigured
from billing.deadline import LambdaContext
from billing.errors import BillingError

_MAX_REASON = 1000  # bytes as they are sent, of the 4096 that the whole answer may have
_RESERVE_SECONDS = 10.0
_ATTEMPTS = 3


class Log(Protocol):
    """What we need of a logger."""

    def exception(self, msg: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """What CloudFormation asks for. `id` is the same when it is delivered twice."""

    kind: Literal["Create", "Update", "Delete"]
    id: str
    resource_id: str | None  # what we called the resource before; None on Create
    properties: Mapping[str, str]
    properties_before: Mapping[str, str] = field(default_factory=dict)  # on Update


@dataclass(frozen=True, slots=True)
class Done:
    """A request fulfilled. Another `resource_id` on Update has the old resource deleted.

    `data` are attributes for the template, which prints them: never a secret.
    """

    resource_id: str
    said: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


def is_request(event: Mapping[str, Any]) -> bool:
    """Whether CloudFormation sent this, and not a person by hand."""
    return "ResponseURL" in event


def explained(error: Exception) -> str:
    """What is to be read without the log, which a deployment that is taken back takes along.

    Of errors of ours all of it, with where they came from; of others, whose words may hold a
    secret, where they happened.
    """
    if isinstance(error, Misconfigured):
        return str(error)
    if isinstance(error, BillingError):
        parts = [str(error), *getattr(error, "__notes__", ())]
        if isinstance(error.__cause__, BillingError):
            parts.append(explained(error.__cause__))
        elif error.__cause__:
            parts.append(str(error.__cause__))
        return " ".join(part if part.endswith(".") else f"{part}." for part in parts)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}; see the function's log."


def fulfil(
    event: Mapping[str, Any],
    context: LambdaContext,
    work: Callable[[Request], Done],
    *,
    resource_id: str,
    reason: Callable[[Exception], str],
    log: Log,
) -> dict[str, Any]:
    """Does the work and answers; returns the answer.

    `resource_id` names a resource that could not be made. `reason` says what an error means to the
    person who deploys. Raises OSError where the answer itself could not be delivered.
    """
    answer = _Answer(event, resource_id)
    seconds = context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS
    watch = Timer(max(seconds, 0), answer.give, ["FAILED", "It took too long; see its log."])
    watch.daemon = True
    watch.start()
    status, said, done = "FAILED", "It ended unexpectedly; see the function's log.", None
    try:
        done = work(_request(event))
        status, said = "SUCCESS", done.said
    except Exception as error:  # whatever it is, CloudFormation has to be told
        log.exception("custom_resource.failed")
        said = reason(error)
    finally:
        watch.cancel()
        answer.give(status, said, done)  # or CloudFormation waits for as long as it may
    return answer.given


def _request(event: Mapping[str, Any]) -> Request:
    return Request(
        event["RequestType"],
        event["RequestId"],
        event.get("PhysicalResourceId"),
        _texts(event.get("ResourceProperties")),
        _texts(event.get("OldResourceProperties")),
    )


def _texts(properties: Mapping[str, object] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (properties or {}).items()}


def _cut(said: str) -> str:
    """As much as fits; what is not ASCII takes six bytes a character or twelve."""
    said = said[:_MAX_REASON]
    while len(json.dumps(said)) - len('""') > _MAX_REASON:
        said = said[:-1]
    return said


class _Answer:
    """The one answer to a request; whoever comes second is not heard."""

    def __init__(self, event: Mapping[str, Any], resource_id: str) -> None:
        self._event = event
        self._resource_id = event.get("PhysicalResourceId", resource_id)
        self._lock = Lock()
        self.given: dict[str, Any] = {}

    def give(self, status: str, said: str, done: Done | None = None) -> None:
        with self._lock:
            if self.given:
                return
            answer: dict[str, Any] = {
                "Status": status,
                "Reason": _cut(said),
                "PhysicalResourceId": done.resource_id if done else self._resource_id,
                "StackId": self._event["StackId"],
                "RequestId": self._event["RequestId"],
                "LogicalResourceId": self._event["LogicalResourceId"],
            }
            if done and done.data:
                answer["Data"] = dict(done.data)
            _put(self._event["ResponseURL"], json.dumps(answer).encode())
            self.given = answer


def _put(url: str, body: bytes) -> None:
    request = HttpRequest(  # noqa: S310 - CloudFormation's own presigned https address
        url,
        data=body,
        method="PUT",
        # The address is signed for no content type, and urllib would name one.
        headers={"Content-Type": ""},
    )
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urlopen(request, timeout=3) as answer:  # noqa: S310
                answer.read()
                return
        except (URLError, TimeoutError, ConnectionError):
            if attempt == _ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
