"""A real Postgres on this machine, from a wheel, without installing anything.

with EmbeddedPostgres(Path(".local")) as postgres:
    url = postgres.ensure_database("billing")
"""

from local.postgres.binaries import PostgresNotFoundError
from local.postgres.server import DataInUseError, EmbeddedPostgres, PostgresError

__all__ = ["DataInUseError", "EmbeddedPostgres", "PostgresError", "PostgresNotFoundError"]
