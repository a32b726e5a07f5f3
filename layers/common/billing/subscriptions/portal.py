"""The way into Commet's customer portal."""

from billing.accounts.accounts import User
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, Conflict
from billing.subscriptions import mirror


def portal_url(
    db: Database, commet: Commet, user: User, *, return_url: str, deadline: Deadline
) -> str:
    """The address of a fresh session, never cached: it lives half an hour.

    Raises Conflict `no_billing_account` for somebody who never started a checkout.
    """
    none = Conflict(
        "There is nothing to manage yet. Choose a plan first.", code="no_billing_account"
    )
    if not mirror.customer_id(db, user.id):
        raise none
    try:
        session = commet.create_portal_session(
            user_id=user.id, return_url=return_url, deadline=deadline
        )
    except CommetRefused as error:
        if error.commet_code == "customer_not_found":
            raise none from error
        raise
    return session.portal_url
