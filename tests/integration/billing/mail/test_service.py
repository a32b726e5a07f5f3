"""SES is called as its protocol says, and each way in which a call may end is told apart."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread

import boto3
import pytest

from billing.mail.service import Message, NotTaken, Refused, Ses, Unanswered
from tests.conftest import SecretsManager
from tests.http_server import Request, Response, serving

MESSAGE = Message(
    "Acme <billing@acme.example>", "ana@example.com", "Sign in - Acme", "Text.\n", "<p>HTML.</p>"
)


@pytest.fixture(autouse=True)
def credentials(secrets_manager: SecretsManager) -> SecretsManager:
    """Worthless ones, from moto."""
    return secrets_manager


@contextmanager
def answering(answer: Callable[[Request], Response]) -> Iterator[tuple[Ses, list[Request]]]:
    asked: list[Request] = []

    def take(request: Request) -> Response:
        asked.append(request)
        return answer(request)

    with serving(take) as url:
        yield Ses(url, "stack-set"), asked


def error(status: int, code: str) -> Response:
    return Response(status=status, body=json.dumps({"__type": code, "message": "no"}).encode())


class TestWire:
    def test_what_is_sent(self) -> None:
        with answering(lambda _: Response(body=b'{"MessageId": "m-1"}')) as (ses, asked):
            assert ses.send(MESSAGE) == "m-1"
        (request,) = asked
        assert (request.method, request.path) == ("POST", "/v2/email/outbound-emails")
        assert json.loads(request.body) == {
            "FromEmailAddress": "Acme <billing@acme.example>",
            "Destination": {"ToAddresses": ["ana@example.com"]},
            "Content": {
                "Simple": {
                    "Subject": {"Data": "Sign in - Acme", "Charset": "UTF-8"},
                    "Body": {
                        "Text": {"Data": "Text.\n", "Charset": "UTF-8"},
                        "Html": {"Data": "<p>HTML.</p>", "Charset": "UTF-8"},
                    },
                    "Headers": [{"Name": "Auto-Submitted", "Value": "auto-generated"}],
                }
            },
            "ConfigurationSetName": "stack-set",
        }

    def test_one_click_switches_mails_off(self) -> None:
        """The headers of RFC 8058, on a mail that may be switched off."""
        with answering(lambda _: Response(body=b'{"MessageId": "m-1"}')) as (ses, asked):
            ses.send(replace(MESSAGE, unsubscribe="https://api.example/unsubscribe?token=t"))
        (request,) = asked
        assert json.loads(request.body)["Content"]["Simple"]["Headers"] == [
            {"Name": "Auto-Submitted", "Value": "auto-generated"},
            {"Name": "List-Unsubscribe", "Value": "<https://api.example/unsubscribe?token=t>"},
            {"Name": "List-Unsubscribe-Post", "Value": "List-Unsubscribe=One-Click"},
        ]

    def test_moto_takes_it(self, secrets_manager: SecretsManager) -> None:
        """Another reading of the same protocol."""
        client = boto3.client("sesv2", endpoint_url=secrets_manager.url)
        client.create_email_identity(EmailIdentity="billing@acme.example")
        assert Ses(secrets_manager.url, "").send(MESSAGE)

    def test_moto_refuses_a_sender_that_was_not_verified(
        self, secrets_manager: SecretsManager
    ) -> None:
        other = Message("eve@eve.example", "ana@example.com", "s", "t", "h")
        with pytest.raises(NotTaken) as raised:
            Ses(secrets_manager.url, "").send(other)
        assert raised.value.reason == "MessageRejected"


class TestErrors:
    @pytest.mark.parametrize("code", ["BadRequestException", "ValidationException"])
    def test_of_this_mail_for_good(self, code: str) -> None:
        with answering(lambda _: error(400, code)) as (ses, _), pytest.raises(Refused) as raised:
            ses.send(MESSAGE)
        assert raised.value.reason == code

    @pytest.mark.parametrize(
        ("status", "code", "concerns_all"),
        [
            (400, "MessageRejected", False),
            (400, "AccountSuspendedException", True),
            (400, "SendingPausedException", True),
            (400, "LimitExceededException", True),
            (400, "MailFromDomainNotVerifiedException", True),
            (404, "NotFoundException", True),
            (429, "TooManyRequestsException", True),
            (403, "AccessDeniedException", True),
            (500, "InternalFailure", True),
            (503, "ServiceUnavailable", True),
        ],
    )
    def test_for_now(self, status: int, code: str, concerns_all: bool) -> None:  # noqa: FBT001
        with (
            answering(lambda _: error(status, code)) as (ses, asked),
            pytest.raises(NotTaken) as raised,
        ):
            ses.send(MESSAGE)
        assert (raised.value.reason, raised.value.concerns_all) == (code, concerns_all)
        assert len(asked) == 1  # the outbox repeats, not the client

    @pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"MessageId"'])
    def test_an_answer_that_says_nothing_leaves_it_open(self, body: bytes) -> None:
        with (
            answering(lambda _: Response(body=body)) as (ses, _),
            pytest.raises(Unanswered),
        ):
            ses.send(MESSAGE)

    @pytest.mark.parametrize("status", [502, 504])
    def test_a_gateway_that_got_no_answer_leaves_it_open(self, status: int) -> None:
        with (
            answering(lambda _: Response(status=status)) as (ses, _),
            pytest.raises(Unanswered),
        ):
            ses.send(MESSAGE)

    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(NotTaken) as raised:
            Ses(f"http://127.0.0.1:{port}", "").send(MESSAGE)
        assert raised.value.concerns_all

    def test_an_address_of_the_service_that_is_none(self) -> None:
        with pytest.raises(NotTaken):
            Ses("no address", "").send(MESSAGE)

    def test_a_lost_answer_leaves_it_open(self) -> None:
        """The connection ends after the request."""
        with socket.create_server(("127.0.0.1", 0)) as server:

            def hang_up() -> None:
                connection, _ = server.accept()
                connection.recv(65536)
                connection.close()

            thread = Thread(target=hang_up)
            thread.start()
            with pytest.raises(Unanswered):
                Ses(f"http://127.0.0.1:{server.getsockname()[1]}", "").send(MESSAGE)
            thread.join()

    def test_no_answer_in_time_leaves_it_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("billing.mail.service._ANSWER_SECONDS", 0.2)
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            pytest.raises(Unanswered) as raised,
        ):
            Ses(f"http://127.0.0.1:{server.getsockname()[1]}", "").send(MESSAGE)
        assert raised.value.reason == "ReadTimeoutError"
