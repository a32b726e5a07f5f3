"""The mailbox that runs alone: SES's protocol for programs, pages for people on this machine."""

import json
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from local.gateway.sidecar import _bare
from local.gateway.template import _alias
from local.mailbox import SEND_EMAIL, Mailbox, _application

MARKUP = "<script>alert(1)</script>"
MAIL: dict[str, Any] = {
    "FromEmailAddress": "Acme <billing@acme.example>",
    "Destination": {"ToAddresses": ["ana@example.com"]},
    "Content": {
        "Simple": {
            "Subject": {"Data": MARKUP},
            "Body": {
                "Text": {"Data": f"{MARKUP}\nhttps://app.example/a?b=c&d=e"},
                "Html": {"Data": MARKUP},
            },
        }
    },
}


@pytest.fixture
def client() -> Client:
    return Client(_application(Mailbox()))


def send(client: Client, mail: object = MAIL, **headers: str) -> TestResponse:
    return client.post(SEND_EMAIL, data=json.dumps(mail), headers=headers)


def mails(client: Client, query: str = "") -> list[dict[str, Any]]:
    answer = client.get(f"/_mail{query}", headers={"accept": "application/json"})
    found: list[dict[str, Any]] = json.loads(answer.data)["mails"]
    return found


class TestProtocol:
    def test_a_mail_is_kept(self, client: Client) -> None:
        taken = json.loads(send(client).data)
        assert [mail["id"] for mail in mails(client)] == [taken["MessageId"]]
        assert len(mails(client, "?to=ana@example.com")) == 1
        assert mails(client, "?to=bea@example.com") == []

    @pytest.mark.parametrize("mail", [{}, [], "mail", {"Content": {"Simple": None}}])
    def test_what_is_no_mail(self, client: Client, mail: object) -> None:
        assert send(client, mail).status_code == 400
        assert mails(client) == []

    def test_a_page_of_another_site_sends_none(self, client: Client) -> None:
        assert send(client, Origin="https://evil.example").status_code == 403
        assert mails(client) == []

    def test_the_newest_are_kept(self, client: Client) -> None:
        for _ in range(501):
            send(client)
        assert len(mails(client)) == 500


class TestPages:
    def test_markup_of_a_mail_runs_in_no_page(self, client: Client) -> None:
        mail_id = json.loads(send(client).data)["MessageId"]
        for path in ("/_mail", f"/_mail/{mail_id}"):
            page = client.get(path)
            assert page.status_code == 200
            assert MARKUP not in page.text
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        part = client.get(f"/_mail/{mail_id}/html")
        assert part.headers["Content-Security-Policy"].startswith("sandbox ")
        assert "allow-scripts" not in part.headers["Content-Security-Policy"]

    def test_links_work(self, client: Client) -> None:
        mail_id = json.loads(send(client).data)["MessageId"]
        assert 'href="https://app.example/a?b=c&amp;d=e"' in client.get(f"/_mail/{mail_id}").text

    @pytest.mark.parametrize("host", ["evil.example", "mail:3004", "localhost.evil.example"])
    def test_another_name_reads_nothing(self, client: Client, host: str) -> None:
        send(client)
        answer = client.get("/_mail", headers={"host": host, "accept": "application/json"})
        assert answer.status_code == 421
        assert b"ana@" not in answer.data


class TestNames:
    def test_the_alias_of_a_function_is_an_arn(self) -> None:
        arn = "arn:aws:lambda:us-east-1:123456789012:function:SendMailFunction:live"
        assert _alias("SendMailFunction.Alias") == arn
        assert _alias("https://app.example/x.Alias") == "https://app.example/x.Alias"

    @pytest.mark.parametrize(
        "name", ["F", "F:live", "arn:aws:lambda:r:1:function:F", "arn:aws:lambda:r:1:function:F:1"]
    )
    def test_invoke_takes_each_form_of_a_name(self, name: str) -> None:
        assert _bare(name) == "F"
