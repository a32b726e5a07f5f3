"""The mail service: Amazon SES, API version 2.

This module never repeats a call, because the outbox decides whether a mail is sent again. Every
error of a call becomes one of the three errors below, which say what we know about the mail.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
# The longest time of one call.
CALL_SECONDS = _CONNECT_SECONDS + _ANSWER_SECONDS

# Error codes that concern one mail only. The service may take the next mail.
_OF_THIS_MAIL = frozenset({"BadRequestException", "InvalidParameterValue", "ValidationException"})
_OF_THIS_MAIL_FOR_NOW = frozenset({"MessageRejected"})


class NotTaken(Exception):
    """The service has certainly not taken the mail, but may take it later.

    `reason`: the service's error code, or why it was not reached. `concerns_all`: every other mail
    would get the same error now.
    """

    def __init__(self, reason: str, *, concerns_all: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.concerns_all = concerns_all


class Refused(Exception):
    """The service will never take this mail. `reason` is its error code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unanswered(Exception):
    """The service may have taken the mail, because the call ended without an answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """A mail in the form in which it is sent. `sender` and `recipient` have the form of a header.

    `unsubscribe` is the address to which a mail program posts if the user wants no more mails of
    this kind (RFC 8058). None for a kind that is always sent.
    """

    sender: str
    recipient: str
    subject: str
    text: str
    html: str
    unsubscribe: str | None = None


class MailService(Protocol):
    """A service that takes mails."""

    def send(self, message: Message) -> str:
        """Returns the service's id of the mail. Raises NotTaken, Refused or Unanswered."""


class Ses:
    """Sends through SES, or through the server at `endpoint` that behaves like it.

    Create one for each run: after an environment was frozen, its connections may be dead, and a
    call over a dead connection leaves a mail in doubt.
    """

    def __init__(self, endpoint: str | None, configuration_set: str) -> None:
        self._endpoint = endpoint
        self._configuration_set = configuration_set
        self._made: Any = None

    def send(self, message: Message) -> str:
        """Returns the service's id of the mail. Raises NotTaken, Refused or Unanswered."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.exceptions import ConnectionError as NotConnected
        from botocore.parsers import ResponseParserError

        client = self._client()
        chosen = {"ConfigurationSetName": self._configuration_set}
        try:
            answer = client.send_email(
                FromEmailAddress=message.sender,
                Destination={"ToAddresses": [message.recipient]},
                Content={"Simple": _content(message)},
                **(chosen if self._configuration_set else {}),
            )
            return str(answer["MessageId"])
        except ClientError as error:
            raise _said(error.response) from error
        except NotConnected as error:  # there was no connection
            raise NotTaken(type(error).__name__, concerns_all=True) from error
        except (HTTPClientError, ResponseParserError, KeyError) as error:
            raise Unanswered(type(error).__name__) from error
        except BotoCoreError as error:  # nothing was sent: no credentials, a value of a wrong type
            raise NotTaken(type(error).__name__, concerns_all=True) from error

    def _client(self) -> Any:
        """Returns boto3's client. It is made for the first mail, because most runs find none.
        Raises NotTaken.
        """
        if self._made is None:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError

            try:
                self._made = boto3.client(
                    "sesv2",
                    endpoint_url=self._endpoint,
                    config=Config(
                        connect_timeout=_CONNECT_SECONDS,
                        read_timeout=_ANSWER_SECONDS,
                        retries={"total_max_attempts": 1},
                    ),
                )
            except (BotoCoreError, ValueError) as error:
                raise NotTaken(type(error).__name__, concerns_all=True) from error
        return self._made


def _content(message: Message) -> dict[str, Any]:
    return {
        "Subject": {"Data": message.subject, "Charset": "UTF-8"},
        "Body": {
            "Text": {"Data": message.text, "Charset": "UTF-8"},
            "Html": {"Data": message.html, "Charset": "UTF-8"},
        },
        "Headers": [{"Name": name, "Value": value} for name, value in _headers(message).items()],
    }


def _headers(message: Message) -> dict[str, str]:
    # This header keeps out-of-office programs from answering the mail (RFC 3834).
    headers = {"Auto-Submitted": "auto-generated"}
    if message.unsubscribe is not None:
        headers["List-Unsubscribe"] = f"<{message.unsubscribe}>"
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    return headers


def _said(answer: Mapping[str, Any]) -> Exception:
    """Returns the error for an error answer. After a gateway's 502 or 504, the outcome is not
    known.
    """
    code = str(answer.get("Error", {}).get("Code", ""))
    if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") in {502, 504}:
        return Unanswered(code)
    if code in _OF_THIS_MAIL:
        return Refused(code)
    return NotTaken(code, concerns_all=code not in _OF_THIS_MAIL_FOR_NOW)
