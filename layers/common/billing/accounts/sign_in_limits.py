"""Limits how often anybody may try to sign in, to sign up, or to have mails sent.

Attempts are counted in Postgres before a password is hashed, so a flood of attempts costs a row and
no CPU. Networks and email addresses are stored as HMAC. If an attempt cannot be counted, nobody is
signed in.

Each limit has a fixed window:
- by network: stops one machine from trying many accounts;
- by network and account: stops one machine from guessing one password;
- by account, with a high limit: above it, every sign-in of the account takes a second longer, also
  with the right password;
- wrong passwords by account, over all networks: above it, a network from which the account never
  signed in needs a link from a mail. Strangers can cause this, but cannot lock out the owner, who
  signs in from a known network or by the link.

An IPv6 address counts in two networks: in its first 64 bits, and in its first 48 bits, for which
the limit is WIDER times as high.
"""

import hashlib
import hmac
from datetime import datetime, timedelta

from billing import email_address
from billing.accounts import networks
from billing.accounts.limits import Limit, too_many
from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)


BY_ADDRESS = Limit(60, timedelta(minutes=5))
BY_ADDRESS_AND_ACCOUNT = Limit(10, timedelta(minutes=5))
BY_ACCOUNT = Limit(100, timedelta(hours=1))
ACCOUNT_DELAY = timedelta(seconds=1)
FAILURES_OF_ACCOUNT = Limit(30, timedelta(days=1))
MAILS_BY_ADDRESS = Limit(20, timedelta(minutes=5))
# How many times as many attempts a network of 48 bits may make as one of 64 bits, because a network
# of 48 bits may be an office.
WIDER = 4
_HOUR = timedelta(hours=1)


class Attempts:
    """Counts sign-in and sign-up attempts, and refuses them above the limits.

    `key` is the secret with which IP addresses and email addresses are hashed.
    """

    def __init__(self, db: Database, key: str, *, sign_ups_per_hour: int) -> None:
        self._db = db
        self._key = key.encode()
        self._sign_ups = Limit(sign_ups_per_hour, _HOUR)

    def sign_in(self, address: str, email: str, now: datetime) -> timedelta:
        """Counts one sign-in. Returns how long to wait before the password is checked.

        Raises TooManyRequests if a limit of this address is exceeded.
        """
        spelled = email_address.key(email)
        account = self._hash("account", spelled)
        limits = {
            **self._by_network("in", address, BY_ADDRESS),
            **self._by_network("in", address, BY_ADDRESS_AND_ACCOUNT, spelled),
            account: BY_ACCOUNT,
        }
        passed = self._passed(limits, now)
        self._refuse({key: end for key, end in passed.items() if key != account}, now)
        return ACCOUNT_DELAY if account in passed else timedelta()

    def sign_up(self, address: str, now: datetime) -> None:
        """Counts one sign-up. Raises TooManyRequests if the limit is exceeded."""
        self._refuse(self._passed(self._by_network("up", address, self._sign_ups), now), now)

    def mail(self, address: str, now: datetime) -> None:
        """Counts one request for a mail. Raises TooManyRequests if the limit is exceeded."""
        self._refuse(self._passed(self._by_network("mail", address, MAILS_BY_ADDRESS), now), now)

    def failed(self, email: str, now: datetime) -> bool:
        """Counts one wrong password. Returns whether this one uses up the limit."""
        key = self._failures(email)
        (row,) = self._db.all(
            _sql["count_attempts"],
            {"keys": [key], "windows": [FAILURES_OF_ACCOUNT.window_start(now)]},
        )
        return bool(row["count"] == FAILURES_OF_ACCOUNT.count)

    def is_guessed(self, email: str, now: datetime) -> bool:
        """Returns whether the wrong passwords of an account have used up their limit."""
        count = self._db.value(
            _sql["count"],
            {
                "key": self._failures(email),
                "window_start": FAILURES_OF_ACCOUNT.window_start(now),
            },
        )
        return (count or 0) >= FAILURES_OF_ACCOUNT.count

    def network(self, address: str) -> str | None:
        """Returns the stored form of the network of an address; None if the network is not
        known.
        """
        narrowest = networks.of(address)[0]
        return None if narrowest == networks.UNKNOWN else self._hash("net", narrowest)

    def _failures(self, email: str) -> str:
        return self._hash("failed", email_address.key(email))

    def _by_network(self, kind: str, address: str, limit: Limit, *parts: str) -> dict[str, Limit]:
        """Returns the limit of each network of the address, by the key under which it is
        counted.
        """
        narrow, *wide = networks.of(address)
        wider = Limit(limit.count * WIDER, limit.window)
        return {
            self._hash(kind, narrow, *parts): limit,
            **{self._hash(kind, each, *parts): wider for each in wide},
        }

    def _passed(self, limits: dict[str, Limit], now: datetime) -> dict[str, datetime]:
        """Counts one attempt against each limit. Returns the exceeded limits and their ends."""
        starts = {key: limit.window_start(now) for key, limit in limits.items()}
        rows = self._db.all(
            _sql["count_attempts"],
            {"keys": list(limits), "windows": [starts[key] for key in limits]},
        )
        return {
            row["key"]: starts[row["key"]] + limits[row["key"]].window
            for row in rows
            if row["count"] > limits[row["key"]].count
        }

    @staticmethod
    def _refuse(passed: dict[str, datetime], now: datetime) -> None:
        if passed:
            raise too_many(max(passed.values()), now)

    def _hash(self, *parts: str) -> str:
        return hmac.new(self._key, "\x00".join(parts).encode(), hashlib.sha256).hexdigest()
