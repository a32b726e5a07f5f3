"""Limits how often anybody may try to sign in or to sign up.

Attempts are counted in Postgres before a password is hashed, so a flood of attempts costs a row and
no CPU. Addresses are stored as HMAC, and IPv6 addresses by their first 64 bits. While an attempt
cannot be counted, nobody is signed in.

Each limit has a fixed window:
- by address: stops one machine from trying many accounts;
- by address and account: stops one machine from guessing one password;
- by account, generous: past it, every sign-in of the account takes a second longer, also with the
  right password. Strangers can slow an account down this way, but cannot lock its owner out.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import TooManyRequests

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class Limit:
    count: int
    window: timedelta


BY_ADDRESS = Limit(60, timedelta(minutes=5))
BY_ADDRESS_AND_ACCOUNT = Limit(10, timedelta(minutes=5))
BY_ACCOUNT = Limit(100, timedelta(hours=1))
ACCOUNT_DELAY = timedelta(seconds=1)
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

        Raises TooManyRequests where a limit of this address is passed.
        """
        network = _network(address)
        account = self._hash("account", email.lower())
        limits = {
            self._hash("in", network): BY_ADDRESS,
            self._hash("in", network, email.lower()): BY_ADDRESS_AND_ACCOUNT,
            account: BY_ACCOUNT,
        }
        passed = self._passed(limits, now)
        self._refuse({key: end for key, end in passed.items() if key != account}, now)
        return ACCOUNT_DELAY if account in passed else timedelta()

    def sign_up(self, address: str, now: datetime) -> None:
        """Counts one sign-up; raises TooManyRequests where the limit is passed."""
        self._refuse(self._passed({self._hash("up", _network(address)): self._sign_ups}, now), now)

    def _passed(self, limits: dict[str, Limit], now: datetime) -> dict[str, datetime]:
        """Counts one attempt against each limit. Returns the passed limits and their ends."""
        starts = {key: _window_start(now, limit.window) for key, limit in limits.items()}
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
            seconds = max(1, int((max(passed.values()) - now).total_seconds()))
            raise TooManyRequests(
                "There were too many attempts. Try again later.", retry_after=seconds
            )

    def _hash(self, *parts: str) -> str:
        return hmac.new(self._key, "\x00".join(parts).encode(), hashlib.sha256).hexdigest()


def _window_start(now: datetime, window: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return now - (now - epoch) % window


def _network(address: str) -> str:
    try:
        ip = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if isinstance(ip, IPv6Address):
        return ip.exploded[:19]  # the first 64 bits, because one household has all of them
    return str(ip)
