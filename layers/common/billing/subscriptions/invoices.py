"""A user's invoices, as Commet has issued them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from billing.accounts.accounts import User
from billing.accounts.limits import Limit, counted
from billing.commet.answers import IssuedInvoice, IssuedInvoiceDetail
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, FieldError, InvalidRequest, NotFound
from billing.subscriptions import customers, mirror

if TYPE_CHECKING:
    from billing.commet.client import Commet

# How many times a user's invoices may be read. Each time costs calls to Commet.
READS = Limit(120, timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class Page:
    """Some invoices, newest first. `next_cursor` is None on the last page."""

    invoices: list[IssuedInvoice]
    next_cursor: str | None


def page(
    db: Database,
    commet: "Commet",
    user: User,
    *,
    cursor: str | None,
    now: datetime,
    deadline: Deadline,
) -> Page:
    """Returns a page of the user's invoices; an empty page for a user whom Commet does not know.

    Raises InvalidRequest for a cursor that no page returned, TooManyRequests, CommetUnavailable and
    CommetRefused.
    """
    if not _is_known(db, user):
        return Page([], None)
    try:
        with _counted(db, commet, user, now):
            found, following = commet.invoices_of_customer(
                user.id, cursor=cursor, deadline=deadline
            )
    except CommetRefused as error:
        if error.commet_code == "customer_not_found":
            return Page([], None)
        if cursor is None or error.commet_status in (401, 403):
            raise
        raise InvalidRequest(
            errors=[FieldError("cursor", "invalid_cursor", "Send a next_cursor value unchanged.")]
        ) from error
    return Page(found, following)


def detail(
    db: Database,
    commet: "Commet",
    user: User,
    invoice_id: str,
    *,
    now: datetime,
    deadline: Deadline,
) -> tuple[IssuedInvoiceDetail, str]:
    """Returns one invoice of the user, and the address of its PDF.

    Raises NotFound `invoice_not_found`, also for another user's invoice; TooManyRequests,
    CommetUnavailable and CommetRefused.
    """
    unknown = NotFound("The user has no invoice with this id.", code="invoice_not_found")
    if not _is_known(db, user):
        raise unknown
    try:
        with _counted(db, commet, user, now):
            found = commet.issued_invoice(invoice_id, deadline)
            if found.customer_id not in (user.id, customers.of_user(db, user.id)):
                raise unknown
            return found, commet.invoice_download(invoice_id, deadline).url
    except CommetRefused as error:
        if error.commet_status != 404:
            raise
        raise unknown from error


def _is_known(db: Database, user: User) -> bool:
    if customers.is_awaited(db, user.id):  # the invoices might belong to somebody else
        return False
    return bool(customers.of_user(db, user.id)) or mirror.current(db, user.id) is not None


def _counted(
    db: Database, commet: "Commet", user: User, now: datetime
) -> AbstractContextManager[None]:
    return counted(db, f"invoices:{user.id}", READS, now=now, calling=commet)
