"""Runs a real Postgres on this machine, from a Python wheel, without any installation.

with EmbeddedPostgres(Path(".local")) as postgres:
    url = postgres.ensure_database("billing")
"""

from local.postgres.binaries import PostgresNotFoundError
from local.postgres.server import DataInUseError, EmbeddedPostgres, PostgresError

__all__ = ["DataInUseError", "EmbeddedPostgres", "PostgresError", "PostgresNotFoundError"]
