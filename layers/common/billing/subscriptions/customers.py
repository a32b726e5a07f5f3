"""Links users to Commet's customers.

The rules are in `database/routines/customers.sql`. A user gets a customer that Commet says is
theirs, with one exception: a customer to which Commet gave the user's id only because the addresses
are the same.
"""

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger
from psycopg.types.json import Jsonb

from billing import email_address
from billing.accounts import accounts
from billing.commet.answers import Customer
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable, Conflict, NotFound
from billing.subscriptions import contacts

if TYPE_CHECKING:
    from billing.commet.client import Commet

_sql = Statements(__file__)

logger = Logger(child=True)

# How long no customer is created for a user after Commet said that another customer has the
# address. Each try would link that customer to this user at Commet, so that the customer's own user
# loses it.
_TAKEN_FOR = timedelta(days=1)


def of_user(db: Database, user_id: str) -> str | None:
    """Returns Commet's id of the user's customer; None if the user has none."""
    found: str | None = db.value(_sql["of_user"], {"user_id": user_id})
    return found


def is_awaited(db: Database, user_id: str) -> bool:
    """Returns whether Commet was asked for a customer, and we do not know the user's own customer
    yet.

    The customer that Commet has for the user may then belong to somebody else with the same
    address. Nothing of that customer may be shown to the user.
    """
    return bool(db.value(_sql["awaits"], {"user_id": user_id}))


def record(db: Database, customer: Customer, now: datetime) -> None:
    """Records what Commet answered about a customer, and links the customer to its user.

    `now` is the time of asking. It is used if Commet does not say when the customer changed.
    """
    news = {
        "id": customer.id,
        "external_id": customer.external_id,
        "email_key": customer.email and email_address.key(customer.email),
        "at": (customer.updated_at or now).isoformat(),
        "ours": customer.is_ours,
    }
    db.execute(_sql["record"], {"customer": Jsonb(news), "now": now})


def note(db: Database, customer_ids: Collection[str]) -> None:
    """Makes the schedule ask once who these customers are. Skips ids that are not Commet's."""
    for each in customer_ids:
        db.execute(_sql["note"], {"customer_id": each})


def owner(db: Database, user_id: str, named: str | None) -> str | None:
    """Returns the id of the user who owns a subscription that Commet says is `named`'s.

    Commet was asked about `user_id`. Returns an empty text if the owner is no user of ours; None if
    the owner is not known.
    """
    found: str | None = db.value(_sql["owner"], {"user_id": user_id, "customer": named})
    return found


def forget(db: Database, user_id: str, customer_id: str) -> None:
    """Unlinks a customer that Commet no longer knows."""
    db.execute(_sql["forget"], {"user_id": user_id, "customer_id": customer_id})


def ensure(
    db: Database,
    commet: "Commet",
    user_id: str,
    *,
    email: str,
    name: str | None,
    now: datetime,
    deadline: Deadline,
) -> None:
    """Creates and links a customer at Commet for the user, unless the user has one.

    Raises Forbidden `email_unverified` if the address of an own account is not proven; Conflict
    `billing_email_taken` if another customer has the address; CommetRefused and CommetUnavailable.
    """
    params = {"user_id": user_id, "taken_for": _TAKEN_FOR, "now": now}
    found = db.one(_sql["standing"], params)
    if found is None or found["is_linked"]:
        return
    if found["is_unverified"]:
        raise accounts.email_unverified()
    if found["was_taken"]:
        raise _email_taken()
    if not found["was_requested"]:
        # If a customer has the user's id before we asked for a customer, a person gave it that id.
        known = commet.find_customer(user_id, deadline)
        if known is not None:
            record(db, known, now)
            return
        db.execute(_sql["request"], {"user_id": user_id})
    else:
        db.execute(_sql["request_again"], {"user_id": user_id, "now": now})
    try:
        customer = commet.create_customer(
            user_id=user_id, email=email, name=name, deadline=deadline
        )
    except CommetRefused as error:
        if error.commet_code != "duplicate":
            raise
        # Commet already has a customer with our user id, or another one with this email.
        existing = commet.find_customer(user_id, deadline)
        if existing is None:
            db.execute(_sql["unrequest"], {"user_id": user_id})
            raise _email_taken() from error
        customer = existing
    before = db.value(_sql["named_before"], {"customer_id": customer.id, "user_id": user_id})
    record(db, customer, now)
    if of_user(db, user_id) == customer.id:
        contacts.compare(db, user_id, customer.email)
        return
    # if Commet does not answer, the schedule does this (customer_watch)
    with suppress(CommetUnavailable):
        give_back(db, commet, customer.id, named=before, now=now, deadline=deadline)
    raise _email_taken()


def give_back(
    db: Database,
    commet: "Commet",
    customer_id: str,
    *,
    named: str | None,
    now: datetime,
    deadline: Deadline,
) -> None:
    """Gives a customer back the id that it had before Commet linked it by its address: `named`.

    If Commet refuses, the link at Commet remains, and no user gets anything of the customer. The
    customer's own user then has access until the end of the paid period, and an operator can
    correct the link with `adopt`. Raises CommetUnavailable.
    """
    try:
        back = commet.update_customer(customer_id, external_id=named, deadline=deadline)
    except CommetRefused as error:
        fields = {"customer_id": customer_id, "commet_code": error.commet_code}
        logger.warning("customer.not_given_back", extra=fields)
    else:
        record(db, back, now)


def adopt(
    db: Database,
    commet: "Commet",
    *,
    user_id: str,
    customer_id: str,
    author: str,
    note: str,
    now: datetime,
    deadline: Deadline,
) -> bool:
    """Gives a user a customer of Commet that has no user of ours. Returns whether the link is new.

    The author of the decision and the reason are stored with the customer. May be repeated, even if
    an earlier attempt ended half-way. Raises NotFound `unknown_user` or `unknown_customer`;
    Conflict `customer_of_another` or `has_a_customer`, and then nothing was changed; CommetRefused
    and CommetUnavailable.
    """
    try:
        customer = commet.customer(customer_id, deadline)
    except CommetRefused as error:
        if error.commet_status != 404:
            raise
        raise NotFound("Commet does not know this customer.", code="unknown_customer") from error
    refused = db.value(
        _sql["approve"],
        {
            "user_id": user_id,
            "customer_id": customer.id,
            "named": customer.external_id,
            "author": author,
            "note": note,
        },
    )
    if refused == "unknown_user":
        raise NotFound("There is no user with this id.", code="unknown_user")
    if refused == "customer_of_another":
        raise Conflict(
            "The customer is another user's. Nothing was changed.", code="customer_of_another"
        )
    if refused == "has_a_customer":
        raise _has_a_customer()
    was_linked = of_user(db, user_id) == customer.id
    # before Commet is changed, so that Commet's answer to the change is newer
    record(db, customer, now)
    if customer.external_id != user_id:
        try:
            customer = commet.update_customer(customer.id, external_id=user_id, deadline=deadline)
        except CommetRefused as error:
            if error.commet_code != "duplicate":
                raise
            raise _has_a_customer() from error
        record(db, customer, now)
    if not was_linked:
        fields = {"user_id": user_id, "customer_id": customer.id, "author": author}
        logger.info("customer.adopted", extra=fields)
    return not was_linked


def _has_a_customer() -> Conflict:
    return Conflict(
        "The user has another customer already, and nothing is ever merged.", code="has_a_customer"
    )


def _email_taken() -> Conflict:
    return Conflict(
        "Another customer is already billed at this email address. If that customer is you, ask the"
        " operator of this service to connect it with this account (`adopt`).",
        code="billing_email_taken",
    )
