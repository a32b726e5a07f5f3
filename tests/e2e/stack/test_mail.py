"""A mail that a statement queued arrives in the mailbox, and the mailbox keeps others out."""

import time
from typing import Any

import httpx
import pytest
from psycopg import connect

from local.stack import LocalStack
from tests.e2e.stack.conftest import Person
from tests.visitor import mail_to

ID = "act_" + "0" * 24


def queue(stack: LocalStack, user: str, address: str, kind: str = "reset_password") -> None:
    with connect(stack.database_url) as connection:
        connection.execute(
            "select queue_mail(%s, %s, %s, jsonb_build_object('token_id', %s::text), now())",
            [user, address, kind, ID],
        )


def invoke(stack: LocalStack, event: dict[str, Any]) -> Any:
    answer = httpx.post(
        f"{stack.lambda_url}/2015-03-31/functions/SendMailFunction/invocations",
        json=event,
        timeout=40,
    )
    return answer.json()


def emit(stack: LocalStack, user: str, type_: str, data: str) -> None:
    with connect(stack.database_url) as connection:
        connection.execute("select emit_event(%s, %s, now(), %s)", [user, type_, data])


def newest(stack: LocalStack, address: str, subject: str) -> dict[str, Any]:
    """The newest mail to the address whose subject begins so, once there is one."""
    until = time.monotonic() + 60
    while True:
        asked = {"params": {"to": address}, "headers": {"accept": "application/json"}}
        mails = httpx.get(stack.mailbox, **asked).json()["mails"]  # type: ignore[arg-type]
        found: list[dict[str, Any]] = [m for m in mails if m["subject"].startswith(subject)]
        if found:
            return found[0]
        assert time.monotonic() < until, f"No mail {subject!r} has come."
        time.sleep(0.05)


class TestAMail:
    def test_it_arrives_with_both_parts_and_its_link(
        self, stack: LocalStack, person: Person
    ) -> None:
        address = f"box.{person.email}"
        queue(stack, person.id, address)
        mail = mail_to(stack, address)
        assert mail["subject"] == "Set a new password - Usage Billing"
        assert mail["sender"] == "Usage Billing <billing@stack.localhost>"
        assert mail["headers"] == {"Auto-Submitted": "auto-generated"}
        link = f"{stack.api}/reset-password?token={ID}."
        assert link in mail["text"]
        assert link in mail["html"]

    def test_a_mail_that_came_back_ends_mails_to_its_address(
        self, stack: LocalStack, person: Person
    ) -> None:
        address = f"gone.{person.email}"
        queue(stack, person.id, address)
        mail = mail_to(stack, address)
        event = {
            "source": "aws.ses",
            "detail": {
                "eventType": "Bounce",
                "bounce": {
                    "bounceType": "Permanent",
                    "bouncedRecipients": [{"emailAddress": address}],
                },
                "mail": {"messageId": mail["id"]},
            },
        }
        assert invoke(stack, event) == {"suppressed": 1}
        with connect(stack.database_url) as connection:
            row = connection.execute("select is_suppressed(%s)", [address]).fetchone()
        assert row == (True,)
        assert invoke(stack, {"command": "allow", "address": address}) == {"allowed": 1}


class TestMailsAboutEvents:
    def test_one_click_in_the_mail_ends_mails_about_thresholds(
        self, stack: LocalStack, person: Person
    ) -> None:
        """From the event to the mail, and from the mail's header to the account."""
        emit(
            stack,
            person.id,
            "usage.threshold_reached",
            '{"feature": "storage", "threshold": {"percent": 80}, "used": "80", "included": "100",'
            ' "period_end": "2026-10-01T00:00:00Z"}',
        )
        mail = newest(stack, person.email, "Your usage of ")
        assert "You have used 80 % of storage" in " ".join(mail["text"].split())
        assert mail["headers"]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        link = mail["headers"]["List-Unsubscribe"].strip("<>")
        assert link.startswith(f"{stack.api}/unsubscribe?token=")
        assert link in mail["text"]
        assert person.http.get("/account/mails").json() == {"thresholds": True}
        assert "<button>" in httpx.get(link).text
        assert person.http.get("/account/mails").json() == {"thresholds": True}
        assert httpx.post(link, data={"List-Unsubscribe": "One-Click"}).status_code == 200
        assert person.http.get("/account/mails").json() == {"thresholds": False}

    def test_a_failed_payment_leads_to_the_billing_page(
        self, stack: LocalStack, person: Person
    ) -> None:
        """And cannot be switched off."""
        emit(stack, person.id, "payment.failed", '{"amount": "29.00", "currency": "usd"}')
        mail = newest(stack, person.email, "Your payment failed")
        assert mail["headers"] == {"Auto-Submitted": "auto-generated"}
        assert f"{stack.api}/app/billing" in mail["text"]
        assert "29.00 USD" in mail["text"]


class TestMailbox:
    def test_its_pages(self, stack: LocalStack, person: Person) -> None:
        address = f"pages.{person.email}"
        queue(stack, person.id, address, "sign_in_link")
        mail = mail_to(stack, address)
        listed = httpx.get(stack.mailbox)
        assert f"/_mail/{mail['id']}" in listed.text
        shown = httpx.get(f"{stack.mailbox}/{mail['id']}")
        assert "color-scheme: light dark" in shown.text
        assert 'sandbox="allow-popups' in shown.text
        link = f"{stack.api}/sign-in?token={ID}."
        assert f'<a href="{link}' in shown.text
        for page in (listed, shown):
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert "script-src" not in page.headers["content-security-policy"]
            assert page.headers["content-security-policy"].startswith("default-src 'none'")
        part = httpx.get(f"{stack.mailbox}/{mail['id']}/html")
        assert part.headers["content-security-policy"].startswith("sandbox allow-popups")
        assert link in part.text

    def test_make_run_names_it(self, stack: LocalStack) -> None:
        assert stack.facts()["mailbox"] == f"{stack.api}/_mail"

    @pytest.mark.parametrize("host", ["mail.example", "127.0.0.1.example", "10.0.0.1", ""])
    def test_a_foreign_name_pointed_here_reads_nothing(self, stack: LocalStack, host: str) -> None:
        answer = httpx.get(stack.mailbox, headers={"host": host, "accept": "application/json"})
        assert answer.status_code in {400, 421}
        assert "mails" not in answer.text

    @pytest.mark.parametrize("host", ["localhost:3000", "api.localhost", "[::1]:3000"])
    def test_names_of_this_machine_do(self, stack: LocalStack, host: str) -> None:
        assert httpx.get(stack.mailbox, headers={"host": host}).status_code == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    def test_pages_change_nothing(self, stack: LocalStack, method: str) -> None:
        assert httpx.request(method, stack.mailbox).status_code == 405

    def test_an_unknown_mail(self, stack: LocalStack) -> None:
        assert httpx.get(f"{stack.mailbox}/nowhere").status_code == 404
