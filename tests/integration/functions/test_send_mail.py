"""The function that sends mails, through its handler."""

import json
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from billing import wiring
from billing.accounts import tokens
from billing.config import from_env
from billing.credentials.secrets import Secrets
from billing.database.connection import Database
from billing.errors import InvalidRequest
from functions.send_mail import app
from local.mailbox import Mailbox
from tests.http_server import Request, Response, serving
from tests.integration.billing.conftest import NOW, add_user
from tests.integration.billing.mail.test_sending import bounce, states
from tests.integration.conftest import Context

pytestmark = pytest.mark.handlers

TOKEN_ID = tokens.new_id()


class Store:
    def get(self, *_: str) -> str:
        return "the app secret"


@pytest.fixture
def mailbox(
    db: Database,
    monkeypatch: pytest.MonkeyPatch,
    secrets_manager: Any,  # noqa: ARG001 - credentials
) -> Any:
    """What a stack with EmailFrom sends to."""
    box = Mailbox()

    def take(request: Request) -> Response:
        status, answer = box.send_email(request.body)
        return Response(status=status, body=json.dumps(answer).encode())

    with serving(take) as url:
        settings = from_env(
            {
                "EMAIL_FROM": "billing@acme.example",
                "EMAIL_ENDPOINT_URL": url,
                "PRODUCT_NAME": "Acme",
                "APP_URL": "https://app.example",
                "APP_SECRET_ARN": "app",
            }
        )
        monkeypatch.setattr(app.metrics.provider, "namespace", "UsageBilling")
        monkeypatch.setattr(wiring, "settings", lambda: settings)
        monkeypatch.setattr(wiring, "database", lambda: db)
        monkeypatch.setattr(wiring, "secrets", lambda: Secrets(Store()))
        monkeypatch.setattr(wiring, "clock", lambda: lambda: NOW)
        add_user(db, "usr_ana")
        yield box


def queue(db: Database, *, to: str = "ana@example.com") -> None:
    fields = Jsonb({"token_id": TOKEN_ID})
    db.execute("select queue_mail('usr_ana', %s, 'verify_email', %s, %s)", [to, fields, NOW])


def written(captured: str) -> dict[str, float]:
    """The metrics of the run, by name."""
    lines = [json.loads(line) for line in captured.splitlines() if line.startswith("{")]
    return {
        name: value[0]
        for line in lines
        if "_aws" in line
        for name, value in line.items()
        if isinstance(value, list)
    }


class TestARun:
    def test_what_is_due_is_sent_with_its_link(self, db: Database, mailbox: Mailbox) -> None:
        queue(db)
        assert app.handler({}, Context())["sent"] == 1
        (mail,) = mailbox.mails("ana@example.com")
        token = tokens.token_of("the app secret", TOKEN_ID)
        assert f"https://app.example/verify-email?token={token}" in mail.text
        assert mail.sender == "Acme <billing@acme.example>"

    def test_its_metrics(
        self, db: Database, mailbox: Mailbox, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert mailbox.mails() == []
        queue(db)
        queue(db, to="ana@example.com,eve@example.com")
        app.handler({}, Context())
        found = written(capsys.readouterr().out)
        assert found == {
            "MailsSent": 1, "MailsPostponed": 0, "MailsFailed": 0, "MailAgeSeconds": 0,
        }  # fmt: skip

    def test_the_log_has_no_address_and_no_token(
        self, db: Database, mailbox: Mailbox, capsys: pytest.CaptureFixture[str]
    ) -> None:
        queue(db)
        app.handler({}, Context())
        assert len(mailbox.mails()) == 1
        captured = capsys.readouterr()
        assert "ana@" not in captured.out + captured.err
        assert tokens.token_of("the app secret", TOKEN_ID)[-64:] not in captured.out + captured.err

    def test_without_a_sender_mails_wait(
        self, db: Database, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wiring, "settings", lambda: from_env({}))
        queue(db)
        assert app.handler({}, Context())["sent"] == 0
        assert states(db) == [("pending", 0, None)]
        assert mailbox.mails() == []

    def test_without_time_for_a_call_no_mail_is_begun(self, db: Database, mailbox: Mailbox) -> None:
        queue(db)
        assert app.handler({}, Context(seconds=8))["sent"] == 0
        assert states(db) == [("pending", 0, None)]
        assert mailbox.mails() == []


class TestEvents:
    def test_a_bounce_ends_mails_to_its_address(self, db: Database, mailbox: Mailbox) -> None:
        queue(db)
        app.handler({}, Context())
        (mail,) = mailbox.mails()
        assert app.handler(bounce(mail.id, "ana@example.com"), Context()) == {"suppressed": 1}
        assert db.value("select is_suppressed('ana@example.com')")

    @pytest.mark.parametrize(
        ("kind", "about"),
        [
            ("Bounce", {"bounceType": "Transient", "bouncedRecipients": []}),
            ("Delivery", {}),
        ],
    )
    def test_what_is_no_reason_to_stop(
        self, db: Database, mailbox: Mailbox, kind: str, about: dict[str, Any]
    ) -> None:
        detail = {"eventType": kind, kind.lower(): about, "mail": {"messageId": "m"}}
        event = {"source": "aws.ses", "detail": detail}
        assert app.handler(event, Context()) == {"suppressed": 0}
        assert db.value("select count(*) from suppressed_addresses") == 0
        assert mailbox.mails() == []

    def test_a_complaint(self, db: Database, mailbox: Mailbox) -> None:
        detail = {
            "eventType": "Complaint",
            "complaint": {"complainedRecipients": [{"emailAddress": "Ana <ana@example.com>"}]},
            "mail": {"messageId": "m"},
        }
        app.handler({"source": "aws.ses", "detail": detail}, Context())
        assert db.value("select reason from suppressed_addresses") == "complaint"
        assert db.value("select is_suppressed('ana@example.com')")
        assert mailbox.mails() == []


class TestCommands:
    def test_redrive(self, db: Database, mailbox: Mailbox) -> None:
        queue(db)
        db.execute("update mails set state = 'dead', ended_at = now()")
        assert app.handler({"command": "redrive", "user": "usr_bea"}, Context()) == {"redriven": 0}
        assert app.handler({"command": "redrive", "id": 1}, Context()) == {"redriven": 1}
        assert app.handler({}, Context())["sent"] == 1
        assert len(mailbox.mails()) == 1

    @pytest.mark.parametrize(
        "command",
        [
            {"command": "send"}, {"command": "allow"}, {"command": "allow", "address": 7},
            {"command": "redrive", "id": "all"}, {"command": "redrive", "user": 7},
        ],
    )  # fmt: skip
    def test_a_wrong_command(self, mailbox: Mailbox, command: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest):
            app.handler(command, Context())
        assert mailbox.mails() == []
