"""What operators do with accounts: end sessions, verify an address, free an address."""

from typing import Any
from uuid import uuid4

import pytest

from billing import wiring
from billing.errors import BillingError
from billing.operations import housekeeping
from functions.reconcile import app as reconcile
from functions.send_mail import app as send_mail
from tests.integration.conftest import Context
from tests.integration.functions.calling import call, mailed
from tests.integration.functions.test_accounts import (
    KEY,
    environment,  # noqa: F401 - a fixture
    sign_in,
    sign_up,
    verify,
)
from tests.integration.functions.test_api import address

pytestmark = pytest.mark.handlers

BY = {"author": "ann", "note": "asked by phone"}


def command(name: str, user: str, **fields: str) -> dict[str, Any]:
    handler = reconcile.handler if name == "end_sessions" else send_mail.handler
    answer: dict[str, Any] = handler({"command": name, "user": user, **BY, **fields}, Context(55))
    return answer


def refused(name: str, user: str, **fields: str) -> str:
    with pytest.raises(BillingError) as caught:
        command(name, user, **fields)
    return caught.value.code


def test_sessions_end() -> None:
    ana, ben = sign_up(verified=True), sign_up()
    sign_in(ana.email)
    assert command("end_sessions", ana.id) == {"ended": 2, "user": ana.id}
    assert (ana.is_in(), ben.is_in()) == (False, True)
    assert command("end_sessions", ana.id)["ended"] == 0


@pytest.mark.parametrize("name", ["end_sessions", "verify_address", "free_address"])
@pytest.mark.parametrize("missing", ["author", "note"])
def test_somebody_decided_it(name: str, missing: str) -> None:
    """And said why."""
    ana = sign_up()
    assert refused(name, ana.id, **{missing: ""}) == "invalid_request"
    assert ana.is_in()


@pytest.mark.parametrize("name", ["verify_address", "free_address"])
def test_it_is_written_down(name: str) -> None:
    """With who and why, whatever became of it."""
    ana = sign_up(verified=True)
    command(name, ana.id)
    refused(name, "usr_nobody")
    found = wiring.database().all(
        "select actor, note, user_id, outcome from audit where details->>'command' = %s"
        " order by at",
        [name],
    )
    assert found == [
        {"actor": "ann", "note": BY["note"], "user_id": ana.id, "outcome": "done"},
        {"actor": "ann", "note": BY["note"], "user_id": "usr_nobody", "outcome": "unknown_user"},
    ]


class TestVerify:
    def test_the_accounts_own_address(self) -> None:
        ana = sign_up()
        assert command("verify_address", ana.id) == {"verified": ana.id}
        assert sign_in(ana.email).status == 200

    def test_another_address(self) -> None:
        """The old mailbox is lost; links that went there do nothing any more."""
        ana = sign_up(verified=True)
        call("POST", "/password/forgot", {"email": ana.email})
        lost, new = mailed(ana.id, "reset_password"), address()
        command("verify_address", ana.id, address=new)
        assert (sign_in(new).status, sign_in(ana.email).status) == (200, 401)
        answer = call("POST", "/password/reset", {"token": lost, "password": "a new long one"})
        assert answer.code == "link_expired"

    def test_what_is_refused(self) -> None:
        ana, eve = sign_up(verified=True), sign_up()
        assert refused("verify_address", eve.id, address=ana.email) == "email_taken"
        assert refused("verify_address", eve.id, address="ana\u200b@b.co") == "invalid_request"
        assert refused("verify_address", "usr_nobody") == "unknown_user"
        user = uuid4().hex
        call("PUT", f"/users/{user}", {"email": address()}, token=KEY)
        assert refused("verify_address", user) == "not_an_own_account"


class TestFree:
    def test_another_account_gets_the_address(self) -> None:
        """The old account stays, and nobody signs in to it."""
        ana = sign_up(verified=True)
        assert command("free_address", ana.id) == {"freed": ana.id}
        assert not ana.is_in()
        assert sign_in(ana.email).status == 401
        ben = sign_up(ana.email)
        assert verify(mailed(ben.id, "verify_email"), by=ben).status == 200
        assert sign_in(ana.email).json["user"]["id"] == ben.id
        kept = "select freed_at is not null from users where id = %s"
        assert wiring.database().value(kept, [ana.id])
        assert refused("verify_address", ana.id) == "email_taken"
        command("verify_address", ana.id, address=(new := address()))
        assert sign_in(new).json["user"]["id"] == ana.id

    def test_it_is_not_deleted(self) -> None:
        """It may have paid."""
        ana = sign_up(verified=True)
        command("free_address", ana.id)
        wiring.database().execute(
            "update users set created_at = now() - interval '9 days' where id = %s", [ana.id]
        )
        housekeeping.delete_unverified(wiring.database(), wiring.now())
        assert command("verify_address", ana.id) == {"verified": ana.id}

    def test_a_forgotten_password_brings_nothing_back(self) -> None:
        ana = sign_up(verified=True)
        command("free_address", ana.id)
        call("POST", "/password/forgot", {"email": ana.email})
        count = "select count(*) from mails where user_id = %s and kind = 'reset_password'"
        assert wiring.database().value(count, [ana.id]) == 0


def test_show_names_others_with_the_address() -> None:
    """It shows the one that has a claim on it."""
    eve = sign_up()
    ana = sign_up(eve.email, verified=True)
    shown = reconcile.handler({"command": "show", "user": ana.email}, Context(55))["user"]
    assert (shown["id"], shown["own_account"], shown["same_address"]) == (ana.id, True, [eve.id])
