"""A migrated database for measurements. Like one in production, it writes to disk (fsync)."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from billing.database.connection import Connection
from billing.database.migrate import migrate
from local.postgres import EmbeddedPostgres

USERS = 32


@contextmanager
def migrated_database() -> Iterator[str]:
    """The URL of a database with our tables and `USERS` users, which is deleted at the end."""
    with migrated_databases("bench") as (url,):
        yield url


@contextmanager
def migrated_databases(*names: str) -> Iterator[list[str]]:
    """The URLs of several such databases on one server."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        Path(place).chmod(0o755)  # Postgres may run as another user
        with EmbeddedPostgres(Path(place)) as server:
            urls = [server.ensure_database(name) for name in names]
            for url in urls:
                migrate(partial(connect, url))
                with connect(url) as db:
                    db.execute(
                        "insert into users (id, email, created_at)"
                        " select 'usr_' || n, n || '@example.com', now()"
                        " from generate_series(1, %s) as n",
                        [USERS],
                    )
            yield urls


def connect(url: str) -> Connection:
    """A connection with the settings that functions use."""
    return psycopg.connect(url, autocommit=True, prepare_threshold=1, row_factory=dict_row)
