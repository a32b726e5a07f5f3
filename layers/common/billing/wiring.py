"""Builds what a function works with, once per environment and only when first used.

INIT imports this and nothing happens: no socket, no secret, no clock is touched before the first
invocation, so a snapshot of the environment can be restored anywhere at any time.
"""

import os
from functools import cache
from typing import TYPE_CHECKING

from billing.clock import Clock, test_clock, wall_clock
from billing.config import Settings, from_env
from billing.db import Database, connector
from billing.secrets import ExtensionStore, Secrets, SecretsManagerStore
from billing.webhook_secret import Vault

if TYPE_CHECKING:
    from billing.commet import Commet


@cache
def settings() -> Settings:
    """This function's settings."""
    return from_env(os.environ)


@cache
def secrets() -> Secrets:
    """This environment's secrets."""
    port = settings().secrets_extension_port
    if port:
        return Secrets(ExtensionStore(port))
    return Secrets(SecretsManagerStore(settings().secrets_endpoint))


@cache
def database() -> Database:
    """This environment's one connection, opened by the first statement."""
    return Database(connector(settings().database, secrets(), settings().function))


@cache
def clock() -> Clock:
    """Wall time, or the local stack's test clock."""
    url = settings().clock_url
    return test_clock(url) if url else wall_clock


@cache
def commet() -> "Commet":
    """The Commet client. Its module is imported here: httpx costs a fifth of a full start."""
    from billing.commet import Commet

    def api_key(*, fresh: bool = False) -> str:
        return str(secrets().fields(settings().commet_secret_id, fresh=fresh).get("api_key", ""))

    return Commet(settings().commet_base_url, api_key, live=settings().commet_mode == "live")


def webhook_vault() -> Vault:
    """Where the webhook secret is kept, for who registers the endpoint: no extension can write."""
    return Vault(SecretsManagerStore(settings().secrets_endpoint), settings().webhook_secret_id)
