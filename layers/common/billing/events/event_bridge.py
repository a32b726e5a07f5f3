"""Amazon EventBridge: puts events on a bus, ten in a call."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
# The longest time of one call.
CALL_SECONDS = _CONNECT_SECONDS + _ANSWER_SECONDS
MOST_ENTRIES = 10
# The source of all our events, for rules that match them.
SOURCE = "usage-billing"

# EventBridge counts the source, the type, the detail and 14 bytes for the time.
_LARGEST_BYTES = 256 * 1024
_OF_TIME = 14

# Error codes that concern one entry only. The entry gets the same code if it is sent again.
_REFUSED = frozenset({"MalformedDetail", "RedactionFailure", "TooLarge"})


class Verdict(Enum):
    """What became of an entry."""

    TAKEN = "taken"
    REFUSED = "refused"  # and would be refused again
    NOT_TAKEN = "not_taken"  # may be taken later


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as EventBridge takes it. `detail` is JSON."""

    type: str
    time: datetime
    detail: str


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of an entry, with EventBridge's code if it was not taken."""

    verdict: Verdict
    code: str | None = None


class EventBridge:
    """Puts entries on one bus. Create one for each run, because old connections may be dead.

    This class repeats no calls: `bus` puts an entry again that was not taken.
    """

    def __init__(self, bus: str, endpoint: str | None) -> None:
        """`bus` is a name or an ARN. `endpoint` is the address of the service, if not AWS's own."""
        self._bus = bus
        self._endpoint = endpoint
        self._made: Any = None

    def put(self, entries: Sequence[Entry]) -> list[Result]:
        """Puts at most ten entries. Returns the outcome of each. Errors of calls become
        outcomes.
        """
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        small = [entry for entry in entries if _bytes_of(entry) <= _LARGEST_BYTES]
        answers = []
        if small:
            try:
                answer = self._client().put_events(Entries=[self._written(each) for each in small])
                answers = [_result(each) for each in answer["Entries"]]
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                answers = [Result(Verdict.NOT_TAKEN, code)] * len(small)
            except (BotoCoreError, HTTPClientError, KeyError, ValueError) as error:
                answers = [Result(Verdict.NOT_TAKEN, type(error).__name__)] * len(small)
        results = iter(answers)
        missing = Result(Verdict.NOT_TAKEN, "no_answer")
        return [
            next(results, missing)
            if _bytes_of(entry) <= _LARGEST_BYTES
            else Result(Verdict.REFUSED, "TooLarge")
            for entry in entries
        ]

    def _written(self, entry: Entry) -> dict[str, Any]:
        return {
            "EventBusName": self._bus,
            "Source": SOURCE,
            "DetailType": entry.type,
            "Detail": entry.detail,
            "Time": entry.time,
        }

    def _client(self) -> Any:
        """Returns boto3's client. It is made for the first call, because most runs have nothing
        to put.
        """
        if self._made is None:
            import boto3
            from botocore.config import Config

            self._made = boto3.client(
                "events",
                endpoint_url=self._endpoint,
                config=Config(
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_ANSWER_SECONDS,
                    retries={"total_max_attempts": 1},
                ),
            )
        return self._made


def _bytes_of(entry: Entry) -> int:
    texts = (SOURCE, entry.type, entry.detail)
    return _OF_TIME + sum(len(text.encode()) for text in texts)


def _result(answer: dict[str, Any]) -> Result:
    code = answer.get("ErrorCode")
    if not code:
        return Result(Verdict.TAKEN)
    return Result(Verdict.REFUSED if code in _REFUSED else Verdict.NOT_TAKEN, str(code))
