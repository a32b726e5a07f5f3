"""How much a piece of work reads, by Postgres's own counts."""

from collections import Counter
from collections.abc import Callable

from billing.database.connection import Database


def rows_read(db: Database, work: Callable[[], object]) -> Counter[str]:
    """How many rows of each table the work looks at, its routines' statements included."""
    counts = (
        "select relname as name, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as read"
        " from pg_stat_xact_user_tables"
    )
    before = Counter({row["name"]: int(row["read"]) for row in db.all(counts)})
    work()
    found = Counter({row["name"]: int(row["read"]) for row in db.all(counts)})
    found.subtract(before)
    return found
