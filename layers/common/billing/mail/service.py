"""The mail service: Amazon SES, API version 2.

Calls are never repeated here: whether a mail is sent again is decided by the outbox. Every error of
a call is one of the three below, which say what is known of the mail.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
# The longest that one call takes.
CALL_SECONDS = _CONNECT_SECONDS + _ANSWER_SECONDS

# What the service says of one mail alone. The next mail may be taken.
_OF_THIS_MAIL = frozenset({"BadRequestException", "InvalidParameterValue", "ValidationException"})
_OF_THIS_MAIL_FOR_NOW = frozenset({"MessageRejected"})


class NotTaken(Exception):
    """The service has certainly not taken the mail, but may take it later.

    `reason`: the service's error code, or why it was not reached. `concerns_all`: any other mail
    would meet the same error now.
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
    """The service may have taken the mail: the call ended without an answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """A mail as it is sent. `sender` and `recipient` have the form of a header.

    `unsubscribe` is the address to which a mail program posts when the user wants no more mails of
    the kind (RFC 8058); None for a kind that is always sent.
    """

    sender: str
    recipient: str
    subject: str
    text: str
    html: str
    unsubscribe: str | None = None


class MailService(Protocol):
    """Something that takes mails."""

    def send(self, message: Message) -> str:
        """The service's id of the mail. Raises NotTaken, Refused or Unanswered."""


class Ses:
    """Sends through SES, or through the server at `endpoint` that behaves like it.

    Make one for each run: the connections of an environment that was frozen may be dead, and a
    dead connection leaves a mail in doubt.
    """

    def __init__(self, endpoint: str | None, configuration_set: str) -> None:
        self._endpoint = endpoint
        self._configuration_set = configuration_set
        self._made: Any = None

    def send(self, message: Message) -> str:
        """The service's id of the mail. Raises NotTaken, Refused or Unanswered."""
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
        """boto3's client, made for the first mail: most runs find none. Raises NotTaken."""
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
    # Out-of-office programs do not answer such a mail (RFC 3834).
    headers = {"Auto-Submitted": "auto-generated"}
    if message.unsubscribe is not None:
        headers["List-Unsubscribe"] = f"<{message.unsubscribe}>"
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    return headers


def _said(answer: Mapping[str, Any]) -> Exception:
    """The error for an error answer. A gateway that got no answer itself knows nothing."""
    code = str(answer.get("Error", {}).get("Code", ""))
    if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") in {502, 504}:
        return Unanswered(code)
    if code in _OF_THIS_MAIL:
        return Refused(code)
    return NotTaken(code, concerns_all=code not in _OF_THIS_MAIL_FOR_NOW)
