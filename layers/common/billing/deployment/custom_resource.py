"""Answers requests of CloudFormation, which waits for one PUT to a presigned address.

Every request is answered once: with success, with a failure and a readable reason, or, shortly
before the function's own time limit, with the failure that it took too long. An error is logged and
not raised, because Lambda would otherwise run the request again after CloudFormation has rolled it
back.
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

_KINDS = ("Create", "Update", "Delete")
# Without these fields, no answer can be sent.
_NEEDED = ("ResponseURL", "StackId", "RequestId", "LogicalResourceId")
_MAX_REASON = 1000  # bytes in the JSON text; the whole answer may have 4096
_RESERVE_SECONDS = 10.0
_ATTEMPTS = 3


class Log(Protocol):
    """The part of a logger that this module uses."""

    def exception(self, msg: str) -> None: ...

    def warning(self, msg: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """A request of CloudFormation. A request that is delivered twice has the same `id`."""

    kind: Literal["Create", "Update", "Delete"]
    id: str
    resource_id: str | None  # the id that we gave to the resource; None on Create
    properties: Mapping[str, str]
    properties_before: Mapping[str, str] = field(default_factory=dict)  # on Update


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a request. CloudFormation shows `said` as the reason.

    If `resource_id` changes on Update, CloudFormation deletes the old resource. `data` are
    attributes for the template, which prints them, so they must not contain a secret.
    """

    resource_id: str
    said: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


def is_request(event: object) -> bool:
    """Returns whether CloudFormation sent the event: it has a request type and a response
    address.
    """
    return (
        isinstance(event, dict)
        and event.get("RequestType") in _KINDS
        and all(isinstance(event.get(name), str) for name in _NEEDED)
        and str(event["ResponseURL"]).startswith(("https://", "http://"))
    )


def refuse(event: object, log: Log) -> dict[str, Any] | None:
    """Returns the answer to an event of an unknown form; None for a request and for {} or null.

    A person may send {} or null. Another event may come from a schedule or a trigger that somebody
    connected to the wrong function, and must change nothing.
    """
    if event is None or event == {}:
        return None
    log.warning("custom_resource.unknown_event")
    return {
        "ignored": "This is no request of CloudFormation. To run the function by hand, send {}."
    }


def explained(error: Exception) -> str:
    """Returns an error's explanation for the person who deploys.

    The person reads it among the stack's events, without the function's log. Our own errors are
    quoted in full, with their cause. Of other errors only the class and the place are named,
    because their messages may contain a secret.
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
    """Calls `work` and sends the answer. Returns the answer.

    `resource_id` is the resource's id if `work` fails on Create. `reason` turns an error into the
    text for the person who deploys. Raises OSError if the answer could not be delivered.
    """
    answer = _Answer(event, resource_id)
    seconds = context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS
    too_long = "The function took too long; see its log."
    watch = Timer(max(seconds, 0), answer.give, ["FAILED", too_long])
    watch.daemon = True
    watch.start()
    status, said, done = "FAILED", "The function ended unexpectedly; see its log.", None
    try:
        done = work(_request(event))
        status, said = "SUCCESS", done.said
    except Exception as error:  # CloudFormation needs an answer after every error
        log.exception("custom_resource.failed")
        said = reason(error)
    finally:
        watch.cancel()
        # without an answer, CloudFormation waits for its ServiceTimeout
        answer.give(status, said, done)
    return answer.given


def _request(event: Mapping[str, Any]) -> Request:
    return Request(
        event["RequestType"],
        event["RequestId"],
        event.get("PhysicalResourceId"),
        _texts(event.get("ResourceProperties")),
        _texts(event.get("OldResourceProperties")),
    )


def _texts(properties: object) -> dict[str, str]:
    named = properties if isinstance(properties, dict) else {}
    return {str(name): str(value) for name, value in named.items()}


def _cut(said: str) -> str:
    """Shortens the text to what fits. A character outside ASCII takes six or twelve bytes."""
    said = said[:_MAX_REASON]
    while len(json.dumps(said)) - len('""') > _MAX_REASON:
        said = said[:-1]
    return said


class _Answer:
    """The one answer to a request. The first answer is sent, and later ones are dropped."""

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
        # The address is signed without a content type. Without this header, urllib would add one.
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
