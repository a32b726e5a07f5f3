"""Checks passwords that people type, and counts wrong ones.

While somebody guesses an account's password, a network from which the account never signed in needs
a link from a mail. An attempt from such a network gets the same answer, in the same time, for a
right and a wrong password.
"""

import time
from datetime import datetime

from billing import metric
from billing.accounts import accounts, passwords
from billing.accounts.accounts import Origin, Session, User
from billing.accounts.links import Links
from billing.accounts.people import People
from billing.accounts.sign_in_limits import Attempts
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.database.connection import Database
from billing.errors import Forbidden, InvalidCredentials, TooManyRequests
from billing.metric import Metric


class SigningIn:
    """Checks passwords.

    `attempts` counts the attempts, `links` sends links to sign in, and `people` makes the hash of
    the person.
    """

    def __init__(self, db: Database, attempts: Attempts, links: Links, people: People) -> None:
        self._db = db
        self._attempts = attempts
        self._links = links
        self._people = people

    def sign_in(
        self,
        *,
        email: str,
        password: str,
        address: str,
        device: str | None,
        by: Actor,
        now: datetime,
    ) -> tuple[User, Session]:
        """Returns the user and a new session. Writes the outcome of the attempt into the audit
        trail, as an act of `by`.

        Raises InvalidCredentials; TooManyRequests; Forbidden `sign_in_link_required` if many wrong
        passwords were tried and the account never signed in from this network. In the last case a
        link is sent if the password is right.
        """
        self._count(address, email, now)
        is_guessed = self._attempts.is_guessed(email, now)
        network = self._attempts.network(address)
        try:
            user, stored = accounts.by_password(
                self._db, email=email, password=password, verify=passwords.verify_password
            )
        except InvalidCredentials as error:
            self._failed(email, now)
            self._audit(by, error.of_user, error.code)
            if is_guessed:
                self._links.send_sign_in(None, now)
                raise _link_required() from None
            raise
        if is_guessed and not accounts.is_known_network(self._db, user.id, network):
            self._audit(by, user.id, "sign_in_link_required")
            self._links.send_sign_in(user.id, now)
            raise _link_required()
        person = self._people.of_address(email)
        origin = Origin(device, network)
        session = accounts.begin_session(self._db, user, stored, now, origin, person=person)
        renewed = passwords.rehashed(stored, password)
        if renewed is not None:
            accounts.rehash(self._db, user.id, old=stored, new=renewed)
        self._audit(by, user.id, trail.DONE)
        return user, session

    def confirm(
        self, *, email: str, stored: str | None, password: str, address: str, now: datetime
    ) -> None:
        """Checks a password that a user types again, against the account's stored hash.

        Wrong passwords count like wrong sign-ins. Raises InvalidCredentials and TooManyRequests.
        """
        self._count(address, email, now)
        if not passwords.verify_password(stored, password):
            self._failed(email, now)
            raise InvalidCredentials

    def _count(self, address: str, email: str, now: datetime) -> None:
        try:
            delay = self._attempts.sign_in(address, email, now)
        except TooManyRequests:
            metric.count(Metric.SIGN_IN_REFUSED, service="session")
            raise
        time.sleep(delay.total_seconds())

    def _audit(self, by: Actor, user_id: str | None, outcome: str) -> None:
        trail.write(self._db, by, Action.SIGNED_IN, user_id=user_id, outcome=outcome)

    def _failed(self, email: str, now: datetime) -> None:
        if self._attempts.failed(email, now):
            metric.count(Metric.ACCOUNTS_GUESSED, service="accounts")


def _link_required() -> Forbidden:
    return Forbidden(
        "Too many wrong passwords were tried. If this one is right, a link to sign in is on its way"
        " to your email address.",
        code="sign_in_link_required",
    )
