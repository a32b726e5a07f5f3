"""A mail that a statement queued arrives in the mailbox, and the mailbox keeps others out."""

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
