"""The address of Commet's customer portal."""

from datetime import timedelta

from billing.accounts.accounts import User
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, Conflict
from billing.subscriptions import mirror

# For how long Commet is asked about a user who visited the portal. A session expires in 30 minutes,
# and a page that is open may stay open for longer.
_VISIT = timedelta(hours=2)


def portal_url(
    db: Database, commet: Commet, user: User, *, return_url: str, deadline: Deadline
) -> str:
    """The address of a new portal session. It is never cached, because it expires in 30 minutes.

    In the portal the user may cancel, resume or change plans, so for two hours Commet is asked
    before this user is refused anything. Raises Conflict `no_billing_account` for a user who has
    neither started a checkout nor a subscription, CommetUnavailable, and CommetRefused.
    """
    no_account = Conflict(
        "There is nothing to manage yet. Choose a plan first.", code="no_billing_account"
    )
    if not mirror.customer_id(db, user.id) and mirror.current(db, user.id) is None:
        raise no_account
    mirror.doubt(db, user.id, lasting=_VISIT)
    try:
        session = commet.create_portal_session(
            user_id=user.id, return_url=return_url, deadline=deadline
        )
    except CommetRefused as error:
        if error.commet_code == "customer_not_found":
            raise no_account from error
        raise
    return session.portal_url
