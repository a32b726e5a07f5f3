"""Customers who pay, at the stand-in and in our tables, without a webhook between the two."""

from decimal import Decimal

from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from standin.testing import StandIn
from tests.integration.billing.conftest import START, add_user, grant_feature


def sign_up(
    db: Database, commet: Commet, remote: StandIn, user: str, *, plan: str = "usage_pro"
) -> str:
    """Somebody who pays for that plan and, here, may use storage without end; the subscription."""
    soon = Deadline.after(20)
    commet.create_customer(user_id=user, email=f"{user}@b.co", name=None, deadline=soon)
    made = commet.create_subscription(
        user_id=user, plan_code=plan, billing_interval="monthly",
        success_url="https://app.example/", idempotency_key=user, deadline=soon,
    )  # fmt: skip
    remote.control.pay(made.id)
    access = next(a for a in commet.feature_access(user, soon) if a.code == "storage")
    assert access.consumption is not None
    period = access.consumption.period
    add_user(db, user)
    db.execute(
        "insert into subscriptions (id, user_id, status, billing_interval, created_at, changed_at)"
        " values (%s, %s, 'active', 'monthly', %s, %s)",
        [made.id, user, START, START],
    )
    db.execute(
        "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
        " values (%s, %s, %s, %s)",
        [user, made.id, period.start, period.end],
    )
    grant_feature(db, user, "storage")
    return made.id


def used_at(commet: Commet, user: str) -> Decimal:
    """What Commet counts."""
    answers = commet.feature_access(user, Deadline.after(20))
    access = next(a for a in answers if a.code == "storage")
    assert access.consumption is not None
    return access.consumption.units_used
