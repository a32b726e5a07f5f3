"""The privileges of the functions' database roles. Migrations grant them.

There are two roles. `accounts` signs people up and in, so only this role reads passwords. `app`
does everything else. Somebody who takes over a function can do no more than its role
(docs/decisions/0022). In a stack with pages, `accounts` may also do what the pages do
(docs/decisions/0046).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from billing.database.connection import Connection

_READ = "select"
_ADD = "select, insert"
_CHANGE = "select, update"
_KEEP = "select, insert, update"  # rows are never deleted
_ALL = "select, insert, update, delete"


@dataclass(frozen=True, slots=True)
class Privileges:
    """The privileges of one role, by table, and the `security definer` routines it may call.

    A privilege may name columns, as in `update (expires_at)`.
    Every role may call routines without `security definer`, because these run with the rights of
    their caller.
    """

    tables: Mapping[str, str]
    routines: frozenset[str]

    def each(self) -> Iterator[tuple[str, str, str | None]]:
        """Yields each table with one privilege, and the column if the privilege is for a column."""
        for table, granted in self.tables.items():
            for privilege, columns in re.findall(r"(\w+)(?: \(([\w, ]+)\))?", granted):
                for column in columns.split(", ") if columns else [None]:
                    yield table, privilege, column


ACCOUNTS = Privileges(
    tables={
        "account_tokens": _ALL,
        "attempts": _KEEP,
        "identities": _READ,
        "known_networks": _KEEP,
        "mail_preferences": _KEEP,
        "mails": _ALL,
        "passwords": _KEEP,
        "sessions": _ALL,
        "suppressed_addresses": "select, insert, delete",
        "users": _KEEP,
    },
    routines=frozenset({"audit", "erase_user", "user_of_identity"}),
)

APP = Privileges(
    tables={
        "access_status": "select, insert, delete",
        "alarm_once": _KEEP,
        "attempts": _ALL,
        "audit": _READ,
        "being_replaced": _READ,
        "call_budget": _KEEP,
        "charged_currency": _ADD,
        "checkout_attempt": _KEEP,
        "contact_change": _ALL,
        "current_subscription": _READ,
        "customers": _KEEP,
        "debt": _KEEP,
        "debt_floor": _ALL,
        "debt_link": _KEEP,
        "debtor": _READ,
        "earlier_free_period": _ADD,
        "entitlements": _KEEP,
        "erasure": _CHANGE,
        "event_attempt": _ADD,
        "event_bus": _ALL,
        "event_delivery": _KEEP,
        "event_endpoint": _ALL,
        "evaluated_ceilings": _KEEP,
        "exported_account_tokens": _READ,
        "exported_known_networks": _READ,
        "exported_mails": _READ,
        "exported_passwords": _READ,
        "identities": _READ,
        "invoice_search": _ALL,
        "lost_delivery": _READ,
        "mail_preferences": _READ,
        "newest_place": _KEEP,
        "outgoing_event": _ALL,
        "overage_due": _ALL,
        "payment_trouble": _KEEP,
        "plan_change": _ALL,
        "plan_change_lease": _ALL,
        "plans_cache": _KEEP,
        "rounds": _KEEP,
        # Only `accounts` creates sessions. Somebody who could change a session's user or token
        # could take over an account.
        "sessions": "select, update (expires_at, last_seen_at), delete",
        "subscriptions": _KEEP,
        "told": _KEEP,
        "threshold": _ALL,
        "threshold_reached": _ALL,
        "usage_credit": _KEEP,
        "usage_daily": _KEEP,
        "usage_delivery": _ALL,
        "usage_drift": _ALL,
        # the ledger: only `prune_ledger` deletes entries, and keeps their keys
        "usage_event": _ADD,
        "usage_key": _READ,
        "usage_period": _KEEP,
        "usage_reservation": _ALL,
        "usage_terms": _READ,
        "usage_total": _KEEP,
        "users": _KEEP,
        "webhooks": _ALL,
    },
    routines=frozenset(
        {
            "audit",
            "delete_unverified",
            "erase_user",
            "prune_audit",
            "prune_ledger",
            "prune_sign_ins",
            "queue_event_mails",
            "replace_erased",
            "user_of_identity",
            "verify_customer",
        }
    ),
)

# The privileges for the pages, in addition to ACCOUNTS. The pages sign people in, show what they
# used, and let them buy and cancel. They never add to the ledger.
PAGES = Privileges(
    tables={
        "access_status": _READ,
        "alarm_once": _ADD,
        "audit": _READ,
        "being_replaced": _READ,
        "call_budget": _KEEP,
        "charged_currency": _ADD,
        "checkout_attempt": _KEEP,
        "contact_change": _KEEP,
        "current_subscription": _READ,
        "customers": _KEEP,
        "debt": _KEEP,
        "debt_floor": _READ,
        "debt_link": _KEEP,
        "debtor": _READ,
        "earlier_free_period": _ADD,
        "entitlements": _KEEP,
        "erasure": _CHANGE,
        "exported_account_tokens": _READ,
        "exported_known_networks": _READ,
        "exported_mails": _READ,
        "exported_passwords": _READ,
        "invoice_search": _ALL,
        "outgoing_event": _ADD,
        "payment_trouble": _KEEP,
        "plan_change": _KEEP,
        "plan_change_lease": _ALL,
        "plans_cache": _KEEP,
        "rounds": _KEEP,
        "subscriptions": _KEEP,
        "told": _KEEP,
        "threshold": "select, insert, delete",
        "threshold_reached": _ALL,
        "usage_credit": _READ,
        "usage_daily": _READ,
        "usage_delivery": _ALL,
        "usage_drift": _CHANGE,
        "usage_event": _READ,
        "usage_period": _KEEP,
        "usage_reservation": _READ,
        "usage_total": _KEEP,
        "webhooks": _CHANGE,
    },
    routines=frozenset({"verify_customer"}),
)

# Both roles read which migrations were applied, because `/health` compares them with those of the
# code.
MIGRATIONS = "schema_migrations"


def grant(
    connection: Connection, roles: Iterable[tuple[str, Privileges]], *, only_more: bool = False
) -> None:
    """Gives each role its privileges and takes all other privileges away.

    `roles` are names in the database. With `only_more`, nothing is taken away, because newer code
    may still be running. A role that is named twice gets the privileges of both. The owner of the
    tables is left out, because it may do everything.
    """
    wanted = [(name, each) for name, each in roles if name != connection.info.user]
    definers = _definers(connection)
    for signature in definers.values():
        _run(connection, f"revoke execute on function {signature} from public")
    for name in dict.fromkeys(name for name, _ in wanted):
        if not only_more:
            _run(connection, "revoke all on all tables in schema public from {}", name)
            for signature in definers.values():
                _run(connection, f"revoke execute on function {signature} from {{}}", name)
        _run(connection, "grant usage on schema public to {}", name)
        _run(connection, "grant usage, select on all sequences in schema public to {}", name)
        _run(connection, f"grant select on {MIGRATIONS} to {{}}", name)
    for name, privileges in wanted:
        for table, granted in privileges.tables.items():
            _run(connection, f"grant {granted} on {table} to {{}}", name)
        for routine in privileges.routines:
            _run(connection, f"grant execute on function {definers[routine]} to {{}}", name)


def _run(connection: Connection, statement: str, role: str = "") -> None:
    """Runs a statement that this module wrote, with the name of a role inserted."""
    connection.execute(sql.SQL(statement).format(sql.Identifier(role)))


def _definers(connection: Connection) -> dict[str, str]:
    """Returns the signatures of the routines that run as the tables' owner, by name."""
    return {
        str(row["name"]): str(row["signature"])
        for row in connection.execute(
            "select proname as name, oid::regprocedure::text as signature from pg_proc"
            " where prosecdef and pronamespace = 'public'::regnamespace"
        )
    }
