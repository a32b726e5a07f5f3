"""Builds the objects that functions use, once per environment and only when first used.

No other module keeps objects for the life of an environment. Importing this module opens no socket
and reads no secret and no clock, so a snapshot of the environment can be restored anywhere and at
any time.

Modules that only some functions use are imported late, by the builder that needs them. A handler
that uses such a module imports it at its own top as well, so that the module is loaded during INIT
(tests/unit/test_imports.py).
"""

import os
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from billing.clock import Clock, test_clock, wall_clock
from billing.config import Settings, from_env
from billing.credentials.secrets import ExtensionStore, Secrets, SecretsManagerStore
from billing.database.connection import Database, connector

if TYPE_CHECKING:
    from billing.accounts.sign_in_limits import Attempts
    from billing.commet.client import Commet
    from billing.credentials.service_keys import ServiceKeys
    from billing.credentials.signatures import Verifier
    from billing.credentials.webhook_secrets import Vault
    from billing.subscriptions.access import Access
    from billing.subscriptions.checkout import Checkouts


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
    """The environment's one database connection, opened by the first statement."""
    return Database(connector(settings().database, secrets(), settings().function))


@cache
def clock() -> Clock:
    """The clock that billing uses: wall time, or the local stack's test clock."""
    url = settings().clock_url
    return test_clock(url) if url else wall_clock


def now() -> datetime:
    """The current time of `clock`."""
    return clock()()


@cache
def commet() -> "Commet":
    """The Commet client. Its module imports httpx, which takes a fifth of a cold start."""
    from billing.commet.client import Commet

    def api_key(*, fresh: bool = False) -> str:
        return str(secrets().fields(settings().commet_secret_id, fresh=fresh).get("api_key", ""))

    return Commet(settings().commet_base_url, api_key, live=settings().commet_mode == "live")


@cache
def access() -> "Access":
    """Decides whether users have access."""
    from billing.subscriptions.access import Access

    return Access(database(), settings(), commet, clock())


@cache
def checkouts() -> "Checkouts":
    """Starts checkouts."""
    from billing.subscriptions.checkout import Checkouts

    return Checkouts(database(), commet(), clock())


@cache
def attempts() -> "Attempts":
    """Counts attempts to sign up and to sign in."""
    from billing.accounts.sign_in_limits import Attempts

    return Attempts(
        database(),
        secrets().text(settings().app_secret_id),
        sign_ups_per_hour=settings().sign_ups_per_hour,
    )


@cache
def service_keys() -> "ServiceKeys":
    """Checks service keys."""
    from billing.credentials.service_keys import ServiceKeys

    return ServiceKeys(secrets(), settings().service_keys_secret_id)


@cache
def webhook_verifier() -> "Verifier":
    """Checks the signatures of webhooks."""
    from billing.credentials.signatures import Verifier

    return Verifier(secrets(), settings().webhook_secret_id)


def webhook_vault() -> "Vault":
    """Reads and writes the webhook secret. Uses Secrets Manager: the extension cannot write."""
    from billing.credentials.webhook_secrets import Vault

    return Vault(SecretsManagerStore(settings().secrets_endpoint), settings().webhook_secret_id)
