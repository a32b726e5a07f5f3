"""The address of Commet's customer portal."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from billing.accounts.accounts import User
from billing.accounts.limits import Limit, Turn
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CallBudgetSpent, CommetRefused, Conflict
from billing.subscriptions import customers, mirror

if TYPE_CHECKING:
    from billing.commet.client import Commet

# How long a user is in doubt who visited the portal. A session expires in 30 minutes, but an open
# page may remain open for longer.
_VISIT = timedelta(hours=2)
# How many addresses a user may get. Each costs a call to Commet.
LINKS = Limit(30, timedelta(hours=1))


def portal_url(
    db: Database,
    commet: "Commet",
    user: User,
    *,
    return_url: str,
    before: Callable[[], object] = lambda: None,
    now: datetime,
    deadline: Deadline,
) -> str:
    """Returns the address of a new portal session. It is never cached, because it expires in 30
    minutes.

    In the portal the user may cancel, resume or change plans. So for two hours Commet is asked
    before this user is refused anything. `before` is called once the user may have the link, and
    before Commet is asked for it. Raises Conflict `no_billing_account` for a user who has neither
    started a checkout nor a subscription, or no customer of their own; TooManyRequests if the
    user's addresses of this hour are used up; CommetUnavailable, and CommetRefused.
    """
    no_account = Conflict(
        "There is nothing to manage yet. Choose a plan first.", code="no_billing_account"
    )
    if not customers.of_user(db, user.id) and mirror.current(db, user.id) is None:
        raise no_account
    if customers.is_awaited(db, user.id):  # the portal might be somebody else's
        raise no_account
    turn = Turn(db, f"portal:{user.id}", LINKS, now)
    turn.take()
    mirror.doubt(db, user.id, lasting=_VISIT, leaves=True)
    before()
    sent = commet.sent
    try:
        session = commet.create_portal_session(
            user_id=user.id, return_url=return_url, deadline=deadline
        )
    except CallBudgetSpent:
        if commet.sent == sent:
            turn.give_back()
        raise
    except CommetRefused as error:
        if error.commet_code == "customer_not_found":
            raise no_account from error
        raise
    return session.portal_url
