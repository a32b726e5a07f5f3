"""Own accounts at one moment: who gets an address, and what a session or a link survives."""

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest

from billing.accounts import accounts, erasing, profile, tokens
from billing.accounts.accounts import Origin, Session, User
from billing.accounts.links import Links
from billing.audit import trail
from billing.database.connection import Database
from billing.errors import BillingError, Unauthenticated
from billing.operations import housekeeping
from tests.integration.billing.conftest import NOW
from tests.integration.billing.racing import Race

SECRET = "app secret"


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
        links = Links(db, SECRET)
        return became(lambda: links.prove(links.proving(its, NOW), NOW))

    assert user.id
    return prove


def resets(its: str) -> Callable[[Database], str]:
    def reset(db: Database) -> str:
        links = Links(db, SECRET)
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
    Links(db, SECRET).send_to_next(ana.id, email, NOW)
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
    Links(db, SECRET).send_to_next(ana.id, f"next-{email}", NOW)
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
    Links(db, SECRET).forgot_password(email, NOW)
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
    Links(db, SECRET).forgot_password(email, NOW)
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
    links = Links(db, SECRET)
    links.forgot_password(email, NOW)
    links.send_sign_in(ana.id, NOW)
    reset, by_link = token(db, ana, "reset_password"), token(db, ana, "sign_in")
    assert race.first(resets(reset)) == "done"
    late = race.second(
        lambda mine: became(lambda: Links(mine, SECRET).sign_in(by_link, NOW, Origin()))
    )
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


@pytest.mark.parametrize("times", [2])
def test_a_statement_that_is_repeated(db: Database, email: str, times: int) -> None:
    """Database repeats a statement whose answer was lost: that is one use of the link."""
    ana, _ = sign_up(db, email)
    token_id = db.value("select id from account_tokens where user_id = %s", [ana.id])
    prove = "select prove_address(%s, %s, null, 'one request', %s)"
    assert [db.value(prove, [token_id, ana.id, NOW]) for _ in range(times)] == [None] * times
    again = "select prove_address(%s, %s, null, 'other', %s)"
    assert db.value(again, [token_id, ana.id, NOW]) == "gone"
