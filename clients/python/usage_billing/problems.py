"""What may go wrong. The API answers errors as RFC 9457 problem documents."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class BillingError(Exception):
    """Every error that this package raises about a request."""


class Unreachable(BillingError):
    """No answer came before the deadline. The request may have taken effect: send it again.

    Send usage and reservations again with the same key, and they count once.
    """


class NotConcluded(BillingError):
    """A `with` block ended without confirming or releasing its reservation, which was released."""


class WrongSignature(Exception):
    """A request to an endpoint of yours was not sent by the backend. Answer it with 400."""


@dataclass(frozen=True, slots=True)
class WrongField:
    """A field of the request that is wrong, and why. `code` is stable."""

    field: str
    code: str
    message: str


class Problem(BillingError):
    """An answer with an error. Programs read `code`, which is stable; people read `detail`.

    `status` is the HTTP status, `request_id` finds the request in the backend's log, and
    `retry_after` is in seconds. `more` has the further fields of the document, such as the `amount`
    and `pay_url` of `debt_open`.
    """

    def __init__(
        self,
        status: int,
        document: Mapping[str, Any],
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.code: str | None = document.get("code")
        self.title = str(document.get("title", ""))
        self.detail = str(document.get("detail", ""))
        self.request_id: str | None = document.get("request_id")
        self.errors = [
            WrongField(str(e.get("field")), str(e.get("code")), str(e.get("message")))
            for e in document.get("errors", [])
        ]
        self.retry_after = retry_after
        known = {"type", "title", "status", "detail", "code", "request_id", "errors"}
        self.more = {name: value for name, value in document.items() if name not in known}
        said = self.detail or self.title or "The answer is not a problem document."
        if self.errors:
            wrong = "; ".join(f"{e.field}: {e.message}" for e in self.errors)
            said = f"{said.removesuffix('.')} ({wrong})"
        super().__init__(f"{status} {self.code or 'unknown'}: {said}")


class Refused(Problem):
    """402: the user may not use this. `code` says why: the plan, a limit, a debt."""


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    """The exception for an answer with this status. `headers` has names in lower case."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    kind = Refused if status == 402 else Problem
    wait = headers.get("retry-after", "")
    return kind(
        status,
        document if isinstance(document, dict) else {},
        float(wait) if wait.isascii() and wait.isdigit() else None,
    )
