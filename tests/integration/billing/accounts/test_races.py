"""Own accounts at one moment: who gets an address, and what a session or a link survives."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from billing.accounts import accounts, erasing, profile, tokens
from billing.accounts.accounts import Origin, Session, User
from billing.accounts.links import Links
from billing.accounts.people import People
from billing.audit import trail
from billing.clock import wall_clock
from billing.commet.answers import Customer
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import BillingError, Unauthenticated
from billing.operations import housekeeping
from billing.subscriptions import contacts
from billing.subscriptions.checkout import Checkouts
from standin.testing import StandIn
from tests.integration.billing.conftest import NOW
from tests.integration.billing.racing import Race

SECRET = "app secret"


def links_of(db: Database) -> Links:
    return Links(db, SECRET, People(SECRET))


@pytest.fixture
def email() -> str:
    return f"{uuid4().hex[:12]}@example.com"


def sign_up(db: Database, email: str, *, verified: bool = False) -> tuple[User, Session]:
    made = accounts.sign_up(db, email=email, password_hash="hash", name=None, now=NOW)
    if verified:
        profile.verify_address(db, made[0].id, None, NOW)
    return made


def token(db: Database, user: User, purpose: str) -> str:
    """The token that a link of this purpose has."""
    found = "select id from account_tokens where user_id = %s and purpose = %s"
    return tokens.token_of(SECRET, db.value(found, [user.id, purpose]))


def became(work: Callable[[], object]) -> str:
    """`done`, or the code of the error."""
    try:
        work()
    except BillingError as error:
        return error.code
    return "done"


def proves(user: User, its: str) -> Callable[[Database], str]:
    def prove(db: Database) -> str:
        links = links_of(db)
        return became(lambda: links.prove(links.proving(its, NOW), NOW))

    assert user.id
    return prove


def resets(its: str) -> Callable[[Database], str]:
    def reset(db: Database) -> str:
        links = links_of(db)
        linked = links.resetting(its, NOW)
        return became(lambda: links.reset_password(linked, "new hash", NOW, None))

    return reset


def begins(user: User) -> Callable[[Database], str | None]:
    """Signs in with a password that was checked just before; the token of the session."""

    def begin(db: Database) -> str | None:
        try:
            return accounts.begin_session(db, user, "hash", NOW).token
        except BillingError:
            return None

    return begin


def is_in(db: Database, session: str) -> bool:
    try:
        accounts.user_of_session(db, session, NOW)
    except Unauthenticated:
        return False
    return True


def test_two_prove_one_address(db: Database, race: Race, email: str) -> None:
    """One gets it, and the other one hears that it is taken."""
    ana, eve = (sign_up(db, email)[0] for _ in range(2))
    first = race.first(proves(ana, token(db, ana, "verify_email")))
    second = race.second(proves(eve, token(db, eve, "verify_email")))
    assert second.waits
    race.commit()
    assert (first, second.answer) == ("done", "email_taken")
    assert accounts.user_by_id(db, eve.id).is_unverified


def test_one_link_twice(db: Database, race: Race, email: str) -> None:
    ana, _ = sign_up(db, email)
    its = token(db, ana, "verify_email")
    first = race.first(proves(ana, its))
    second = race.second(proves(ana, its))
    assert second.waits
    race.commit()
    assert (first, second.answer) == ("done", "link_expired")


def test_an_address_moves_while_another_account_proves_it(
    db: Database, race: Race, email: str
) -> None:
    """Ana moves to the address that Eve proves at this moment."""
    ana, _ = sign_up(db, f"old-{email}", verified=True)
    links_of(db).send_to_next(ana.id, email, NOW)
    eve, _ = sign_up(db, email)
    first = race.first(proves(ana, token(db, ana, "change_email")))
    second = race.second(proves(eve, token(db, eve, "verify_email")))
    assert second.waits
    race.commit()
    assert (first, second.answer) == ("done", "email_taken")
    assert accounts.user_by_id(db, ana.id).email == email


def test_two_links_of_one_account(db: Database, race: Race, email: str) -> None:
    """The next address is proven at this moment: the link to the first one does nothing then."""
    ana, _ = sign_up(db, email)
    links_of(db).send_to_next(ana.id, f"next-{email}", NOW)
    its = token(db, ana, "verify_email")
    first = race.first(proves(ana, token(db, ana, "change_email")))
    second = race.second(proves(ana, its))
    assert second.waits
    race.commit()
    assert (first, second.answer) == ("done", "link_expired")
    assert accounts.user_by_id(db, ana.id).email == f"next-{email}"


def test_a_sign_in_during_a_reset(db: Database, race: Race, email: str) -> None:
    """Its password was right a moment ago, and is not any more."""
    ana, _ = sign_up(db, email, verified=True)
    links_of(db).forgot_password(email, NOW)
    its = token(db, ana, "reset_password")
    assert race.first(resets(its)) == "done"
    late = race.second(begins(ana))
    assert late.waits
    race.commit()
    assert late.answer is None
    assert db.value("select count(*) from sessions where user_id = %s", [ana.id]) == 0


def test_a_reset_during_a_sign_in(db: Database, race: Race, email: str) -> None:
    """The session that has just begun ends with all others."""
    ana, _ = sign_up(db, email, verified=True)
    links_of(db).forgot_password(email, NOW)
    its = token(db, ana, "reset_password")
    session = race.first(begins(ana))
    late = race.second(resets(its))
    assert late.waits
    race.commit()
    assert late.answer == "done"
    assert session is not None
    assert not is_in(db, session)


def test_a_link_to_sign_in_during_a_reset(db: Database, race: Race, email: str) -> None:
    ana, _ = sign_up(db, email, verified=True)
    links = links_of(db)
    links.forgot_password(email, NOW)
    links.send_sign_in(ana.id, NOW)
    reset, by_link = token(db, ana, "reset_password"), token(db, ana, "sign_in")
    assert race.first(resets(reset)) == "done"
    late = race.second(lambda mine: became(lambda: links_of(mine).sign_in(by_link, NOW, Origin())))
    assert late.waits
    race.commit()
    assert late.answer == "link_expired"
    assert db.value("select count(*) from sessions where user_id = %s", [ana.id]) == 0


def test_a_sign_in_while_the_password_changes(db: Database, race: Race, email: str) -> None:
    """Only the session that changes the password goes on."""
    ana, mine = sign_up(db, email, verified=True)
    race.first(
        lambda db: profile.change_password(
            db, ana.id, old_hash="hash", new_hash="new hash", token=mine.token, now=NOW
        )
    )
    late = race.second(begins(ana))
    assert late.waits
    race.commit()
    assert late.answer is None
    assert is_in(db, mine.token)


def test_two_change_the_password(db: Database, race: Race, email: str) -> None:
    """Both typed the old one; the second one is wrong by then."""
    ana, mine = sign_up(db, email, verified=True)

    def change(new: str) -> Callable[[Database], str]:
        return lambda db: became(
            lambda: profile.change_password(
                db, ana.id, old_hash="hash", new_hash=new, token=mine.token, now=NOW
            )
        )

    first = race.first(change("one"))
    second = race.second(change("other"))
    race.commit()
    assert (first, second.answer) == ("done", "invalid_credentials")
    assert accounts.password_hash_of(db, ana.id) == "one"


def test_proven_at_the_last_moment(db: Database, race: Race, email: str) -> None:
    """Housekeeping meets an account that is being verified, and leaves it."""
    ana, mine = sign_up(db, email)
    late = NOW + timedelta(hours=25)
    race.first(lambda db: db.execute("select verify_address(%s, null, null, now())", [ana.id]))
    tidying = race.second(lambda db: housekeeping.delete_unverified(db, late))
    assert tidying.waits
    race.commit()
    assert tidying.answer == 0
    assert is_in(db, mine.token)


def test_erased_at_the_last_moment(db: Database, race: Race, email: str) -> None:
    """Housekeeping meets an account that is being erased, and leaves it to the erasure."""
    ana, _ = sign_up(db, email)
    late = NOW + timedelta(hours=25)
    race.first(lambda db: erasing.erase(db, ana.id, by=trail.SOMEBODY))
    tidying = race.second(lambda db: housekeeping.delete_unverified(db, late))
    assert tidying.waits
    race.commit()
    assert tidying.answer == 0


def test_deleted_at_the_last_moment(db: Database, race: Race, email: str) -> None:
    """The link comes too late."""
    ana, _ = sign_up(db, email)
    its = token(db, ana, "verify_email")
    late = NOW + timedelta(hours=25)
    assert race.first(lambda db: housekeeping.delete_unverified(db, late)) == 1
    second = race.second(proves(ana, its))
    assert second.waits
    race.commit()
    assert second.answer in ("link_expired", "unknown_user")


def checks_out(
    session: str, commet: Commet, *, email: str | None = None
) -> Callable[[Database], str]:
    """Checks out as the route does; with `email`, as if that had been read a moment before."""

    def check_out(db: Database) -> str:
        def start() -> None:
            user = accounts.user_of_session(db, session, NOW)
            accounts.require_verified(user)
            Checkouts(db, commet, wall_clock).start(
                replace(user, email=email or user.email),
                plan_code="usage_pro",
                billing_interval="monthly",
                success_url="https://app.example/",
                deadline=Deadline.after(20),
            )

        return became(start)

    return check_out


def at_commet(remote: StandIn, user_id: str) -> list[str]:
    """The addresses of the customers that Commet has for a user."""
    customers = remote.control.state()["customers"]
    return [each["email"] for each in customers if each["external_id"] == user_id]


def test_a_checkout_while_the_address_is_proven(
    db: Database, race: Race, email: str, remote: StandIn, commet: Commet
) -> None:
    """Refused until the proof counts, without a trace; then one customer, one checkout."""
    ana, mine = sign_up(db, email)
    assert race.first(proves(ana, token(db, ana, "verify_email"))) == "done"
    early = race.second(checks_out(mine.token, commet))
    assert not early.waits
    assert early.answer == "email_unverified"
    assert db.value("select count(*) from checkout_attempt where user_id = %s", [ana.id]) == 0
    assert db.value("select customer_requested_at from users where id = %s", [ana.id]) is None
    race.commit()
    assert checks_out(mine.token, commet)(db) == "done"
    assert at_commet(remote, ana.id) == [email]


def test_a_checkout_of_an_address_that_another_account_proves(
    db: Database, race: Race, email: str, remote: StandIn, commet: Commet
) -> None:
    """Eve's account has the same address, and never checks out with it."""
    ana, _ = sign_up(db, email)
    eve, hers = sign_up(db, email)
    assert race.first(proves(ana, token(db, ana, "verify_email"))) == "done"
    assert race.second(checks_out(hers.token, commet)).answer == "email_unverified"
    race.commit()
    assert checks_out(hers.token, commet)(db) == "email_unverified"
    assert at_commet(remote, eve.id) == []


def test_the_address_changes_during_a_checkout(
    connect: Callable[[], Database], email: str, remote: StandIn, commet: Commet
) -> None:
    """The customer is made with the old address, and Commet is told the new one afterwards."""
    db, other = connect(), connect()
    ana, mine = sign_up(db, f"old-{email}", verified=True)
    links_of(db).send_to_next(ana.id, email, NOW)
    its = token(db, ana, "change_email")
    create = commet.create_customer

    def create_meanwhile(**fields: Any) -> Customer:
        assert proves(ana, its)(other) == "done"
        return create(**fields)

    commet.create_customer = create_meanwhile  # type: ignore[method-assign]
    assert checks_out(mine.token, commet)(db) == "done"
    assert at_commet(remote, ana.id) == [f"old-{email}"]
    budget = Budget(db, calls_per_second=1000)
    assert contacts.run(db, commet, budget, Deadline.after(20)) == 1
    assert at_commet(remote, ana.id) == [email]


def test_the_address_changed_before_the_checkout_went_on(
    db: Database, email: str, remote: StandIn, commet: Commet
) -> None:
    """The request read the old address, and nothing had been asked of Commet yet."""
    ana, mine = sign_up(db, f"old-{email}", verified=True)
    links_of(db).send_to_next(ana.id, email, NOW)
    assert proves(ana, token(db, ana, "change_email"))(db) == "done"
    assert checks_out(mine.token, commet, email=f"old-{email}")(db) == "done"
    budget = Budget(db, calls_per_second=1000)
    assert contacts.run(db, commet, budget, Deadline.after(20)) == 1
    assert at_commet(remote, ana.id) == [email]


@pytest.mark.parametrize("work", ["rename", "next address", "verification"])
def test_an_erasure_and_a_request_under_way(
    db: Database, race: Race, email: str, work: str
) -> None:
    """Whatever was let in before: nothing of the person is written once the erasure is done."""
    ana, _ = sign_up(db, email, verified=work != "verification")
    works: dict[str, Callable[[Database], None]] = {
        "rename": lambda mine: profile.rename(mine, ana.id, "Ana"),
        "next address": lambda mine: links_of(mine).send_to_next(ana.id, email, NOW),
        "verification": lambda mine: links_of(mine).send_verification(ana.id, NOW),
    }
    race.first(lambda mine: erasing.erase(mine, ana.id, by=trail.SOMEBODY))
    second = race.second(works[work])
    assert second.waits
    race.commit()
    second.answer  # noqa: B018 - raises what went wrong
    works[work](db)
    assert db.one(
        "select u.name, (select count(*) from account_tokens) as links,"
        " (select count(*) from mails) as mails from users u where u.id = %s",
        [ana.id],
    ) == {"name": None, "links": 0, "mails": 0}


@pytest.mark.parametrize("times", [2])
def test_a_statement_that_is_repeated(db: Database, email: str, times: int) -> None:
    """Database repeats a statement whose answer was lost: that is one use of the link."""
    ana, _ = sign_up(db, email)
    token_id = db.value("select id from account_tokens where user_id = %s", [ana.id])
    prove = "select prove_address(%s, %s, null, 'one request', %s)"
    assert [db.value(prove, [token_id, ana.id, NOW]) for _ in range(times)] == [None] * times
    again = "select prove_address(%s, %s, null, 'other', %s)"
    assert db.value(again, [token_id, ana.id, NOW]) == "gone"
