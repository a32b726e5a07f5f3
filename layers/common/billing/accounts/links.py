"""The actions of links in mails: prove an address, set a new password, sign in.

A link works once, and until it expires. Only opening it does nothing, because programs that scan
mails open links: the page behind a link sends the link's token in a POST.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from billing import email_address
from billing.accounts import accounts, tokens
from billing.accounts.accounts import Origin, Session, User
from billing.accounts.people import People
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import BillingError, Conflict

_sql = Statements(__file__)

_PROVING = ["verify_email", "change_email"]


@dataclass(frozen=True, slots=True)
class Linked:
    """The account of a link. `email` is the address that the link was sent to."""

    token_id: str
    user_id: str
    purpose: str
    email: str
    password_hash: str


class Links:
    """Sends links and carries out their actions. Tokens are made with `app_secret`."""

    def __init__(self, db: Database, app_secret: str, people: People) -> None:
        self._db = db
        self._app_secret = app_secret
        self._people = people

    def send_verification(self, user_id: str, now: datetime) -> None:
        """Sends the link that proves an address again. Does nothing for a verified account."""
        self._send(user_id, "verify_email", now)

    def send_sign_in(self, user_id: str | None, now: datetime) -> None:
        """Sends a link to sign in to a verified account. None: sends nothing, but takes the
        same time.
        """
        self._send(user_id, "sign_in", now)

    def send_to_next(self, user_id: str, email: str, now: datetime) -> None:
        """Sends the link that makes `email` the address of an own account."""
        params = {"email": email, "email_key": email_address.key(email)}
        self._db.execute(
            _sql["send_to_next_address"], self._new("change_email", now, user_id=user_id) | params
        )

    def forgot_password(self, email: str, now: datetime, *, by: Actor = trail.SOMEBODY) -> None:
        """Sends the link to set a new password, if there is an account with this address."""
        params = self._new("reset_password", now, email_key=email_address.key(email))
        asked = trail.entry(by, Action.RESET_ASKED)
        self._db.execute(_sql["forgot_password"], params | {"asked": asked})

    def proving(self, token: str, now: datetime) -> Linked:
        """Returns the account whose address a link proves. Raises Conflict `link_expired`."""
        return self._linked(token, _PROVING, now)

    def prove(self, linked: Linked, now: datetime) -> User:
        """Proves the address. Returns the account with the proven address.

        The caller has made sure that the account's owner asks. Raises Conflict `link_expired`, and
        `email_taken` if another account proved to have the address first.
        """
        params = {**self._of(linked), "now": now}
        _raise(self._db.value(_sql["prove_address"], params | _request()))
        return accounts.user_by_id(self._db, linked.user_id)

    def resetting(self, token: str, now: datetime) -> Linked:
        """Returns the account whose password a link resets. Raises Conflict `link_expired`."""
        return self._linked(token, ["reset_password"], now)

    def reset_password(
        self, linked: Linked, password_hash: str, now: datetime, network: str | None
    ) -> None:
        """Sets the password and proves the address. Ends all sessions and all other links.

        Raises Conflict `link_expired`, and `email_taken` like `prove`.
        """
        params = {
            **self._of(linked),
            "password_hash": password_hash,
            "network": network,
            "now": now,
        }
        _raise(self._db.value(_sql["reset_password"], params | _request()))

    def sign_in(self, token: str, now: datetime, origin: Origin) -> tuple[User, Session]:
        """Signs in by a link. Returns the account and a session. Raises Conflict `link_expired`."""
        linked = self._linked(token, ["sign_in"], now)
        session = accounts.new_session(now)
        params = {
            **self._of(linked),
            "now": now,
            **accounts.session_row(session, origin),
        }
        _raise(self._db.value(_sql["sign_in_by_link"], params | _request()))
        return accounts.user_by_id(self._db, linked.user_id), session

    def _send(self, user_id: str | None, purpose: str, now: datetime) -> None:
        params = self._new(purpose, now, user_id=user_id) | {"purpose": purpose}
        self._db.execute(_sql["send_to_account"], params)

    @staticmethod
    def _new(purpose: str, now: datetime, **params: str | None) -> dict[str, object]:
        lasting = tokens.LASTING[purpose]
        return {"token_id": tokens.new_id(), "lasting": lasting, "now": now, **params}

    def _of(self, linked: Linked) -> dict[str, object]:
        """Returns parameters: the token, the account, and the person by the address that got
        the link.
        """
        person = self._people.of_address(linked.email)
        return {"token_id": linked.token_id, "user_id": linked.user_id, "person": person}

    def _linked(self, token: str, purposes: list[str], now: datetime) -> Linked:
        token_id = tokens.id_of(self._app_secret, token)
        row = None
        if token_id is not None:
            params = {"token_id": token_id, "purposes": purposes, "now": now}
            row = self._db.one(_sql["account_of"], params)
        if row is None:
            raise _expired()
        return Linked(
            str(token_id), row["user_id"], row["purpose"], row["email"], row["password_hash"]
        )


def _request() -> dict[str, str]:
    """Returns an id for one use of a link. `Database` may repeat the statement, which is one
    use.
    """
    return {"request": uuid4().hex}


def _raise(refused: str | None) -> None:
    if refused is not None:
        raise accounts.email_taken() if refused == "email_taken" else _expired()


def _expired() -> BillingError:
    return Conflict(
        "The link was used already, or has expired, or a newer one was sent.", code="link_expired"
    )
