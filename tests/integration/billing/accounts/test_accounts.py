"""Accounts, sessions and attempts, on the tables they live in."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from billing.accounts import accounts, profile
from billing.accounts.accounts import User
from billing.accounts.sign_in_limits import (
    ACCOUNT_DELAY,
    BY_ACCOUNT,
    BY_ADDRESS,
    BY_ADDRESS_AND_ACCOUNT,
    Attempts,
)
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import (
    Conflict,
    DatabaseUnavailable,
    InvalidCredentials,
    NotFound,
    TooManyRequests,
    Unauthenticated,
)
from tests.integration.billing.conftest import NOW, own_database


@pytest.fixture
def email() -> str:
    """An address no other test uses."""
    return f"{uuid4().hex[:12]}@Example.com"


def sign_up(
    db: Database, email: str, name: str | None = None, *, verified: bool = True
) -> tuple[User, str]:
    user, session = accounts.sign_up(
        db, email=email, password_hash="hash:right", name=name, now=NOW
    )
    if verified:
        profile.verify_address(db, user.id, None, NOW)
        user = accounts.user_by_id(db, user.id)
    return user, session.token


def sign_in(db: Database, email: str, now: datetime = NOW) -> tuple[User, str]:
    user, stored = accounts.by_password(db, email=email, password="right", verify=verify)
    return user, accounts.begin_session(db, user, stored, now).token


def verify(stored: str | None, password: str) -> bool:
    return stored == f"hash:{password}"


class TestSignUp:
    def test_a_user_and_a_session(self, shared: Database, email: str) -> None:
        """The address stays as it was written; the session is theirs."""
        user, token = sign_up(shared, email, "Ana ✓")
        assert user.id.startswith("usr_")
        assert (user.email, user.name) == (email, "Ana ✓")
        assert accounts.user_of_session(shared, token, NOW) == user

    def test_the_password_stands_apart(self, shared: Database, email: str) -> None:
        """A role without the right to read `passwords` reads users, and no hash."""
        user, _ = sign_up(shared, email)
        row = shared.one("select u::text as line from users u where id = %s", [user.id])
        stored = shared.one("select hash, changed_at from passwords where user_id = %s", [user.id])
        assert row
        assert "hash:right" not in row["line"]
        assert stored == {"hash": "hash:right", "changed_at": NOW}

    def test_the_same_address_in_other_case(self, shared: Database, email: str) -> None:
        """It is taken, and the first account stays as it is."""
        user, _ = sign_up(shared, email)
        with pytest.raises(Conflict) as caught:
            sign_up(shared, email.upper())
        assert caught.value.code == "email_taken"
        assert accounts.user_by_id(shared, user.id).email == email

    def test_twice_at_once(self, migrated_url: str, email: str) -> None:
        """Each makes an account, and one of them gets the address."""

        def attempt(_: int) -> bool:
            with own_database(migrated_url) as db:
                try:
                    sign_up(db, email)
                except Conflict:
                    return False
                return True

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(attempt, range(12))) == 1


class TestSignIn:
    def test_always_a_new_session(self, shared: Database, email: str) -> None:
        """In any case of the address; the older session stays good."""
        user, first = sign_up(shared, email)
        found, second = sign_in(shared, email.swapcase())
        assert found == user
        assert second != first
        assert accounts.user_of_session(shared, first, NOW) == user

    def test_wrong_and_unknown_read_the_same(self, shared: Database, email: str) -> None:
        """And both are verified, against something."""
        sign_up(shared, email)
        checked = []

        def record(stored: str | None, password: str) -> bool:
            checked.append(stored)
            return verify(stored, password)

        errors = []
        for address in (email, "nobody@example.com"):
            with pytest.raises(InvalidCredentials) as caught:
                accounts.by_password(shared, email=address, password="no", verify=record)
            errors.append((caught.value.code, caught.value.detail, caught.value.status))
        assert errors[0] == errors[1]
        assert checked == ["hash:right", None]

    def test_a_verifier_that_says_yes_to_nobody(self, shared: Database) -> None:
        """There is nobody to sign in."""
        with pytest.raises(InvalidCredentials):
            accounts.by_password(
                shared, email="nobody@example.com", password="x", verify=lambda *_: True
            )

    def test_who_is_not_verified(self, shared: Database, email: str) -> None:
        """Only the session that made the account knows it."""
        user, token = sign_up(shared, email, verified=False)
        with pytest.raises(InvalidCredentials):
            sign_in(shared, email)
        assert accounts.user_of_session(shared, token, NOW) == user


class TestSessions:
    def test_the_token_is_nowhere(self, db: Database, email: str) -> None:
        """Who reads the table cannot sign in with it."""
        _, token = sign_up(db, email)
        assert len(token) == len("ses_") + 64
        for table in ("sessions", "users"):
            rows = db.all(f"select t::text as line from {table} as t")  # noqa: S608
            assert rows
            assert not any(token[4:] in each["line"] for each in rows)

    def test_slides(self, shared: Database, email: str) -> None:
        """Seven days after it was last used."""
        user, token = sign_up(shared, email)
        day = NOW
        for _ in range(3):
            day += timedelta(days=6)
            assert accounts.user_of_session(shared, token, day) == user
        with pytest.raises(Unauthenticated):
            accounts.user_of_session(shared, token, day + timedelta(days=7))

    @pytest.mark.parametrize(
        ("used", "slides"),
        [(timedelta(hours=1), False), (timedelta(hours=1, microseconds=1), True)],
    )
    def test_slides_once_an_hour(
        self, shared: Database, email: str, used: timedelta, *, slides: bool
    ) -> None:
        """A row is not written for every request."""
        user, token = sign_up(shared, email)
        accounts.user_of_session(shared, token, NOW + used)
        end = NOW + timedelta(days=7)
        if slides:
            assert accounts.user_of_session(shared, token, end) == user
        else:
            with pytest.raises(Unauthenticated):
                accounts.user_of_session(shared, token, end)

    def test_the_longest_life(self, shared: Database, email: str) -> None:
        """Thirty days, however often it is used."""
        user, token = sign_up(shared, email)
        for days in range(5, 30, 5):
            accounts.user_of_session(shared, token, NOW + timedelta(days=days))
        last = NOW + timedelta(days=30)
        assert accounts.user_of_session(shared, token, last - timedelta(seconds=1)) == user
        with pytest.raises(Unauthenticated):
            accounts.user_of_session(shared, token, last)

    def test_unused(self, shared: Database, email: str) -> None:
        """Its end is exact."""
        _, token = sign_up(shared, email)
        accounts.user_of_session(shared, token, NOW + timedelta(minutes=59))  # does not slide yet
        with pytest.raises(Unauthenticated):
            accounts.user_of_session(shared, token, NOW + timedelta(days=7))

    def test_ended(self, shared: Database, email: str) -> None:
        """On the server, this one alone, and twice does no harm."""
        user, first = sign_up(shared, email)
        _, second = sign_in(shared, email)
        accounts.close_session(shared, first)
        accounts.close_session(shared, first)
        with pytest.raises(Unauthenticated):
            accounts.user_of_session(shared, first, NOW)
        assert accounts.user_of_session(shared, second, NOW) == user

    @pytest.mark.parametrize(
        "token", ["", "ses_", "ses_" + "0" * 64, "\x00", "\ud800", "x" * 10**5]
    )
    def test_unknown_tokens(self, shared: Database, token: str) -> None:
        """Whatever was sent is nobody."""
        with pytest.raises(Unauthenticated):
            accounts.user_of_session(shared, token, NOW)


class TestPutUser:
    def put(self, db: Database, user_id: str, email: str, name: str | None = None) -> bool:
        _, created = accounts.put_user(
            db, user_id=user_id, email=email, name=name, now=NOW, deadline=Deadline.after(20)
        )
        return created

    def test_inserts_then_updates(self, shared: Database, email: str) -> None:
        """A backend's word on its own users."""
        user_id = f"app:{uuid4().hex}"
        assert self.put(shared, user_id, email, "Ana")
        assert not self.put(shared, user_id, f"new-{email}", "Ana B.")
        assert accounts.user_by_id(shared, user_id) == User(user_id, f"new-{email}", "Ana B.")

    def test_never_renames_who_has_a_password(self, shared: Database, email: str) -> None:
        """Else a backend's key could take over an account by changing its address."""
        user, _ = sign_up(shared, email, "Ana")
        assert not self.put(shared, user.id, f"thief-{email}", "Thief")
        assert accounts.user_by_id(shared, user.id) == user

    def test_an_address_of_somebody_else(self, shared: Database, email: str) -> None:
        """It is contact data: it takes no address from anybody, and none is taken from it."""
        user, _ = sign_up(shared, email)
        for _ in range(2):
            assert self.put(shared, f"app:{uuid4().hex}", email.upper())
        assert sign_in(shared, email)[0] == user

    def test_does_not_block_who_signs_up_later(self, shared: Database, email: str) -> None:
        """Else a product's data could keep the owner of an address out."""
        self.put(shared, f"app:{uuid4().hex}", email)
        user, _ = sign_up(shared, email)
        assert sign_in(shared, email)[0] == user

    def test_cannot_sign_in(self, shared: Database, email: str) -> None:
        """There is no password, so none is right."""
        self.put(shared, f"app:{uuid4().hex}", email)
        with pytest.raises(InvalidCredentials):
            accounts.by_password(shared, email=email, password="", verify=verify)

    def test_unknown(self, shared: Database) -> None:
        """An id nobody has."""
        with pytest.raises(NotFound) as caught:
            accounts.user_by_id(shared, "usr_nobody")
        assert caught.value.code == "unknown_user"


@pytest.fixture
def attempts(shared: Database) -> Attempts:
    """Counters under a key of this test's own: nobody else counts here."""
    return Attempts(shared, uuid4().hex, sign_ups_per_hour=3)


def refused(count: int, call: object, *arguments: object) -> list[bool]:
    """Which of so many calls were refused."""
    assert callable(call)
    results = []
    for _ in range(count):
        try:
            call(*arguments)
        except TooManyRequests:
            results.append(True)
        else:
            results.append(False)
    return results


class TestAttempts:
    def test_one_machine_one_account(self, attempts: Attempts) -> None:
        """Exactly so many tries, in any case of the address; others go on."""
        limit = BY_ADDRESS_AND_ACCOUNT.count
        for address in ("a@b.c", "A@B.C"):
            results = refused(limit // 2, attempts.sign_in, "192.0.2.1", address, NOW)
            assert not any(results)
        assert refused(1, attempts.sign_in, "192.0.2.1", "a@b.c", NOW) == [True]
        assert refused(1, attempts.sign_in, "192.0.2.2", "a@b.c", NOW) == [False]
        assert refused(1, attempts.sign_in, "192.0.2.1", "b@b.c", NOW) == [False]

    def test_one_machine_many_accounts(self, attempts: Attempts) -> None:
        """Spreading guesses over accounts does not help."""
        results = [
            refused(1, attempts.sign_in, "192.0.2.1", f"{n}@b.c", NOW)[0]
            for n in range(BY_ADDRESS.count + 1)
        ]
        assert results == [False] * BY_ADDRESS.count + [True]

    def test_a_new_window(self, attempts: Attempts) -> None:
        """How long to wait is said, and true."""
        refused(BY_ADDRESS_AND_ACCOUNT.count, attempts.sign_in, "192.0.2.1", "a@b.c", NOW)
        with pytest.raises(TooManyRequests) as caught:
            attempts.sign_in("192.0.2.1", "a@b.c", NOW)
        assert caught.value.retry_after
        after = NOW + timedelta(seconds=caught.value.retry_after)
        assert after == NOW + timedelta(minutes=5)
        almost = after - timedelta(microseconds=1)
        assert refused(1, attempts.sign_in, "192.0.2.1", "a@b.c", almost) == [True]
        assert refused(1, attempts.sign_in, "192.0.2.1", "a@b.c", after) == [False]

    def test_the_window_of_many_accounts(self, attempts: Attempts) -> None:
        """Five minutes for a machine, whatever accounts it tries."""
        for n in range(BY_ADDRESS.count):
            attempts.sign_in("192.0.2.1", f"{n}@b.c", NOW)
        after = NOW + timedelta(minutes=5)
        almost = after - timedelta(microseconds=1)
        assert refused(1, attempts.sign_in, "192.0.2.1", "x@b.c", almost) == [True]
        assert refused(1, attempts.sign_in, "192.0.2.1", "x@b.c", after) == [False]

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
            ("2001:db8:1:2::1", "2001:DB8:1:3::1", False),
            ("2001:db8::1", "2001:db8:0:0:1::", True),
            ("::ffff:192.0.2.1", "192.0.2.1", True),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
            ("192.0.2.1", "192.0.2.2", False),
            ("nonsense", "", True),
            ("192.0.2.1:52044", "192.0.2.1", True),
            ("192.0.2.1:52044", "192.0.2.2:52044", False),
            ("[2001:db8:1:2::1]:443", "2001:db8:1:2::1", True),
            ("[2001:db8:1:2::1]", "2001:db8:1:2::1", True),
            ("fe80::1%eth0", "fe80::1", True),
            ("[fe80::1%eth0]:443", "fe80:0:0:1::1%eth1", False),
        ],
    )
    def test_networks(self, attempts: Attempts, one: str, other: str, same: object) -> None:
        """An IPv6 household is one caller; what is no address shares one place."""
        refused(3, attempts.sign_up, one, NOW)
        assert refused(1, attempts.sign_up, other, NOW) == [same]

    def test_many_networks_of_one_office(self, attempts: Attempts) -> None:
        """An IPv6 /48 has 65,536 networks, and gets no more than four times as much as one."""
        results = [refused(1, attempts.sign_up, f"2001:db8:7:{n:x}::1", NOW)[0] for n in range(13)]
        assert results == [False] * 12 + [True]
        assert refused(1, attempts.sign_up, "2001:db8:8::1", NOW) == [False]

    def test_sign_ups(self, attempts: Attempts) -> None:
        """As many as the deployer allows per hour and address."""
        assert refused(4, attempts.sign_up, "192.0.2.1", NOW) == [False] * 3 + [True]
        later = NOW + timedelta(hours=1)
        early = later - timedelta(microseconds=1)
        assert refused(1, attempts.sign_up, "192.0.2.1", early) == [True]
        assert refused(1, attempts.sign_up, "192.0.2.1", later) == [False]

    def test_a_distributed_guess_never_locks_out(self, attempts: Attempts) -> None:
        """From many addresses: past the account's limit everybody waits, and nobody is refused."""
        delays = [
            attempts.sign_in(f"198.51.{n // 250}.{n % 250}", "a@b.c", NOW)
            for n in range(BY_ACCOUNT.count + 2)
        ]
        assert delays == [timedelta()] * BY_ACCOUNT.count + [ACCOUNT_DELAY] * 2
        after = NOW + timedelta(hours=1)
        almost = after - timedelta(microseconds=1)
        assert attempts.sign_in("192.0.2.9", "a@b.c", almost) == ACCOUNT_DELAY
        assert attempts.sign_in("192.0.2.9", "a@b.c", after) == timedelta()
        assert attempts.sign_in("192.0.2.9", "other@b.c", NOW) == timedelta()

    def test_nothing_readable_is_stored(self, db: Database) -> None:
        """Addresses and accounts as HMAC under a secret."""
        Attempts(db, "key", sign_ups_per_hour=1).sign_in("192.0.2.1", "ana@b.c", NOW)
        keys = [row["key"] for row in db.all("select key from attempts")]
        assert len(keys) == 3
        assert all(len(key) == 64 for key in keys)
        other = Attempts(db, "other key", sign_ups_per_hour=1)
        other.sign_in("192.0.2.1", "ana@b.c", NOW)
        assert db.value("select count(*) from attempts") == 6

    def test_fails_closed(self) -> None:
        """Without a count nobody gets in."""

        def down() -> psycopg.Connection[dict[str, object]]:
            raise psycopg.OperationalError

        with pytest.raises(DatabaseUnavailable):
            Attempts(Database(down), "k", sign_ups_per_hour=1).sign_in("192.0.2.1", "a@b.c", NOW)

    def test_counted_exactly_at_once(self, migrated_url: str) -> None:
        """Many callers at the same moment: the limit holds to the last one."""
        key = uuid4().hex

        def attempt(_: int) -> int:
            with own_database(migrated_url) as db:
                counter = Attempts(db, key, sign_ups_per_hour=1000)
                return sum(refused(5, counter.sign_in, "192.0.2.1", "a@b.c", NOW))

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(attempt, range(6))) == 30 - BY_ADDRESS_AND_ACCOUNT.count
