"""The users whose usage is measured, and what they report."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from urllib.parse import urlsplit, urlunsplit

from bench.database import connect
from billing.database.connection import Connection, Database
from billing.database.migrate import migrate
from billing.usage import accepting
from billing.usage.accepting import UsageEvent
from billing.usage.rules import Rules

USERS = 1_000
FEATURES = ("api", "storage", "tokens")
# The users of each kind have names of their own. `usr` are within what their plan includes.
OVERAGE = "overage below a ceiling"
CEILINGS = {
    OVERAGE: "pays",
    "within what is included": "usr",
    "unlimited, no ceiling": "free",
}
STATUSES = frozenset({"active", "trialing", "past_due"})
# A ceiling that nobody reaches.
RULES = Rules(STATUSES, ceilings={"usd": Decimal(10) ** 15}, at_once={"usd": None})

_numbers = count()


def number_of_user(users: int = USERS) -> int:
    """The number of another user at each call: all of the first `users` in turn."""
    return next(_numbers) * 7919 % users


def key_in_order() -> str:
    """An idempotency key that sorts after those before it, among keys of equally many digits."""
    return f"bench-{next(_numbers)}"


def events(
    size: int, users: int, kind: str = "usr", key: Callable[[], str] = key_in_order
) -> list[UsageEvent]:
    """`size` events of as many users as `users` allows, of all features in turn."""
    return [
        UsageEvent(f"{kind}_{number_of_user(users)}", FEATURES[n % 3], Decimal(1), key())
        for n in range(size)
    ]


def accept(database: Database, reported: Sequence[UsageEvent]) -> None:
    """Accepts events in one call. Raises RuntimeError if one was not accepted."""
    verdicts = accepting.accept(database, reported, rules=RULES, now=datetime.now(UTC))
    if any(verdict.status != "accepted" for verdict in verdicts):
        raise RuntimeError(f"not accepted: {verdicts[0]}")


def database_beside(url: str, name: str) -> Database:
    """A new database on the same server, with our tables and the users of `populate`."""
    own = url_beside(url, name)
    with connect(url) as admin:
        admin.execute(f"create database {name}".encode())
    migrate(lambda: connect(own))
    with connect(own) as admin:
        populate(admin)
    return Database(lambda: connect(own))


def url_beside(url: str, name: str) -> str:
    """The URL of another database on the server of `url`."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def populate(admin: Connection) -> None:
    """Inserts users with three features, who have paid for a year. Their periods end soon."""
    for statement in (
        "delete from users",
        "insert into users (id, email, created_at)"
        " select k || '_' || n, k || n || '@example.com', now()"
        " from generate_series(0, %(last)s) as n, unnest(%(kinds)s::text[]) as k",
        "insert into subscriptions (id, user_id, status, billing_interval, created_at, changed_at)"
        " select 'sub_' || id, id, 'active', 'monthly', now(), now() from users",
        "insert into usage_period (id, user_id, subscription_id, starts_at, ends_at)"
        " overriding system value select n + 1, 'usr_' || n, 'sub_usr_' || n,"
        " now() - interval '30 days', now() + interval '1 day'"
        " from generate_series(0, %(last)s) as n",
        "insert into usage_period (id, user_id, subscription_id, starts_at, ends_at, closed_at)"
        " overriding system value select p.id + m * (1 + %(last)s), p.user_id, p.subscription_id,"
        " p.starts_at - m * interval '30 days', p.starts_at - (m - 1) * interval '30 days',"
        " p.starts_at - (m - 1) * interval '30 days'"
        " from usage_period p, generate_series(1, 11) as m",
        # The other kinds' periods have ids of their own.
        "insert into usage_period (id, user_id, subscription_id, starts_at, ends_at)"
        " overriding system value select 100000 + row_number() over (), u.id, 'sub_' || u.id,"
        " now() - interval '30 days', now() + interval '1 day'"
        " from users u where u.id not like 'usr%%'",
        "insert into entitlements (user_id, feature, name, type, model, allowed, included,"
        " unlimited, overage_enabled, unit_price, currency, changed_at)"
        " select id, f, f, 'usage', 'metered', true,"
        " case when id like 'pays%%' then 0 else 1000000 end, id like 'free%%',"
        " id not like 'free%%' and (f <> 'storage' or id like 'pays%%'), 1000, 'usd', now()"
        " from users, unnest(%(features)s::text[]) as f",
    ):
        admin.execute(
            statement,
            {"last": USERS - 1, "features": list(FEATURES), "kinds": list(CEILINGS.values())},
        )
    admin.execute("vacuum (analyze)")
