"""Checks, after a migration, that each role of the functions has its privileges."""

from collections.abc import Callable

from billing.database.connection import Connection
from billing.database.privileges import Privileges
from billing.database.statements import Statements

_sql = Statements(__file__)


class RoleCannotWork(Exception):
    """A role of the functions can log in but lacks a privilege. The message names role and
    privilege.
    """


def probe(role: str, privileges: Privileges, connect: Callable[[], Connection]) -> None:
    """Opens a connection as a role, and reads which of its privileges the role lacks.

    Raises RoleCannotWork if it lacks any, and psycopg.OperationalError if it cannot log in.
    """
    wanted = list(privileges.each())
    connection = connect()
    try:
        rows = connection.execute(
            _sql["lacking"],
            {
                "names": [name for name, _, _ in wanted],
                "wanted": [privilege for _, privilege, _ in wanted],
                "columns": [column for _, _, column in wanted],
                "definers": sorted(privileges.routines),
            },
        ).fetchall()
    finally:
        connection.close()
    if rows:
        lacks = "; ".join(str(row["lack"]) for row in rows)
        raise RoleCannotWork(f"The role {role} cannot work: {lacks}.")
