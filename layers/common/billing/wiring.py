"""Builds the objects that functions use, once per environment and when they are first used.

No other module keeps objects as long as an environment lives. Importing this module opens no socket
and reads no secret and no clock, so a snapshot of the environment can be restored anywhere and at
any time.

Modules that only some functions use are imported late, by the builder that needs them. A handler,
or a module of `http`, that uses such a builder imports the module at its own top as well, so that
it is loaded during INIT (tests/unit/test_imports.py).
"""

import os
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from billing.clock import Clock, test_clock, wall_clock
from billing.config import Misconfigured, Settings, from_env
from billing.credentials.secrets import ExtensionStore, Secrets, SecretsManagerStore
from billing.database.connection import Database, connector

if TYPE_CHECKING:
    from billing.accounts.links import Links
    from billing.accounts.people import People
    from billing.accounts.sign_in_limits import Attempts
    from billing.accounts.signing_in import SigningIn
    from billing.audit.trail import KeyUses
    from billing.commet.client import Commet
    from billing.commet.metered import MeteredCommet
    from billing.credentials.identity_tokens import IdentityTokens
    from billing.credentials.service_keys import ServiceKeys
    from billing.credentials.signatures import Verifier
    from billing.credentials.webhook_secrets import Vault
    from billing.deadline import Deadline
    from billing.debts.refusing import Debtors
    from billing.events.event_bridge import EventBridge
    from billing.events.receivers import Receivers
    from billing.mail.service import Ses
    from billing.mail.waking import Waker
    from billing.subscriptions.access import Access
    from billing.subscriptions.checkout import Checkouts
    from billing.subscriptions.managing import Management
    from billing.subscriptions.plan_changes import PlanChanges
    from billing.usage.rules import Rules


@cache
def settings() -> Settings:
    """This function's settings."""
    return from_env(os.environ)


@cache
def secrets() -> Secrets:
    """This environment's secrets."""
    port = settings().secrets_extension_port
    # The extension needs the session token. A function that was restored from a SnapStart snapshot
    # has none, because AWS gives it container credentials instead.
    if port and "AWS_SESSION_TOKEN" in os.environ:
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
    """The Commet client for work that takes its calls from the call budget itself.

    Its module imports httpx, which takes a fifth of a cold start.
    """
    from billing.commet.client import Commet

    return Commet(settings().commet_base_url, _api_key, live=_is_live())


@cache
def metered_commet() -> "MeteredCommet":
    """The Commet client for a request of a person. It takes every call from the budget."""
    from billing.commet.call_budget import Budget
    from billing.commet.metered import MeteredCommet

    return MeteredCommet(
        Budget(database(), settings().commet_calls_per_second),
        settings().commet_base_url,
        _api_key,
        live=_is_live(),
    )


@cache
def access() -> "Access":
    """Decides whether users have access."""
    from billing.subscriptions.access import Access

    return Access(database(), settings(), commet, clock())


@cache
def rules() -> "Rules":
    """The parameters that decide whether usage is given."""
    from billing.usage.rules import Rules

    return Rules(
        settings().live_statuses,
        ceilings=settings().overage_ceiling,
        at_once=settings().deliver_at_once_from,
        currency=settings().currency,
        late_grace=settings().late_usage_grace,
    )


@cache
def checkouts() -> "Checkouts":
    """Starts checkouts."""
    from billing.subscriptions.checkout import Checkouts

    return Checkouts(database(), metered_commet(), clock())


@cache
def plan_changes() -> "PlanChanges":
    """Previews and performs changes of plan."""
    from billing.subscriptions.plan_changes import PlanChanges

    return PlanChanges(database(), metered_commet(), clock(), flush, settings().currency)


@cache
def management() -> "Management":
    """Cancels and keeps subscriptions."""
    from billing.subscriptions.managing import Management

    return Management(database(), metered_commet(), clock(), flush)


def flush(user_id: str, deadline: "Deadline") -> bool:
    """Delivers all usage of a user now. Returns whether nothing is left to deliver."""
    from billing.commet.call_budget import Budget
    from billing.delivery import flushing

    return flushing.flush(
        database(),
        commet(),
        user_id,
        clock=clock(),
        interval=settings().delivery_interval,
        budget=Budget(database(), settings().commet_calls_per_second),
        deadline=deadline,
    )


@cache
def debtors() -> "Debtors":
    """Refuses checkouts to users who owe."""
    from billing.debts.refusing import Debtors

    return Debtors(database(), metered_commet(), clock(), settings().app_url)


@cache
def attempts() -> "Attempts":
    """Counts attempts to sign up and to sign in."""
    from billing.accounts.sign_in_limits import Attempts

    return Attempts(
        database(),
        secrets().text(settings().app_secret_id),
        sign_ups_per_hour=settings().sign_ups_per_hour,
    )


def ses() -> "Ses":
    """The mail service, for one run (billing/mail/service.py has the reason)."""
    from billing.mail.service import Ses

    return Ses(settings().email_endpoint, settings().email_configuration_set)


def event_bridge() -> "EventBridge":
    """The bus that outgoing events are put on, for one run."""
    from billing.events.event_bridge import EventBridge

    return EventBridge(settings().event_bus, settings().events_endpoint)


def event_receivers() -> "Receivers":
    """Calls endpoints. Made for one run, because connections of an earlier run may be dead."""
    from billing.events.receivers import Receivers

    return Receivers(allow_loopback=settings().receivers_on_loopback)


def endpoint_secret() -> str:
    """The secret from which the secrets of endpoints are computed. Nobody rotates it."""
    return secrets().text(settings().people_secret_id)


def event_source() -> str:
    """The `source` of outgoing events."""
    return settings().app_url or "/"


@cache
def mail_sender() -> "Waker":
    """Invokes the function that sends queued mails."""
    from billing.mail.waking import Waker

    return Waker(settings().send_mail_function)


@cache
def links() -> "Links":
    """Sends the links of mails, and carries out their actions."""
    from billing.accounts.links import Links

    return Links(database(), secrets().text(settings().app_secret_id), people())


@cache
def signing_in() -> "SigningIn":
    """Checks passwords that people type."""
    from billing.accounts.signing_in import SigningIn

    return SigningIn(database(), attempts(), links(), people())


@cache
def people() -> "People":
    """Makes the hashes by which a person with an erased account is recognised."""
    from billing.accounts.people import People

    return People(secrets().text(settings().people_secret_id))


@cache
def service_keys() -> "ServiceKeys":
    """Checks service keys."""
    from billing.credentials.service_keys import ServiceKeys

    return ServiceKeys(secrets(), settings().service_keys_secret_id)


def load_identity_tokens() -> None:
    """Imports during INIT the module that checks tokens, if an identity provider is configured.

    Without one, it is not imported, because PyJWT and cryptography take a quarter of a second.
    """
    with suppress(Misconfigured):  # each request reports it
        if from_env(os.environ).oidc_issuer:
            from billing.credentials import identity_tokens  # noqa: F401


@cache
def identity_tokens() -> "IdentityTokens":
    """Checks the tokens of the identity provider. Reads its keys with the first token."""
    from billing.credentials.identity_tokens import IdentityTokens
    from billing.credentials.signing_keys import SigningKeys

    issuer = settings().oidc_issuer
    return IdentityTokens(
        SigningKeys(issuer, url=settings().oidc_jwks_url),
        issuer=issuer,
        audiences=settings().oidc_audiences,
        email_claim=settings().oidc_email_claim,
        name_claim=settings().oidc_name_claim,
    )


@cache
def key_uses() -> "KeyUses":
    """Records the first use of each service key on each day."""
    from billing.audit.trail import KeyUses

    return KeyUses(database())


@cache
def webhook_verifier() -> "Verifier":
    """Checks the signatures of webhooks."""
    from billing.credentials.signatures import Verifier

    return Verifier(secrets(), settings().webhook_secret_id)


def webhook_vault() -> "Vault":
    """Reads and writes the webhook secret in Secrets Manager, because the extension cannot
    write.
    """
    from billing.credentials.webhook_secrets import Vault

    return Vault(SecretsManagerStore(settings().secrets_endpoint), settings().webhook_secret_id)


def _is_live() -> bool:
    return settings().commet_mode == "live"


def _api_key(*, fresh: bool = False) -> str:
    return str(secrets().fields(settings().commet_secret_id, fresh=fresh).get("api_key", ""))
