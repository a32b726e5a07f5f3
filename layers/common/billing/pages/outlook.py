"""What the pages say of a user's running period: its likely cost, the next invoice, notices."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from billing import wiring
from billing.http import dashboard_answers, projection_answers
from billing.http.projection_answers import FeatureOutlook
from billing.http.shapes.dashboard import Dashboard
from billing.pages import banners, formats, site
from billing.pages.banners import Badge, Banner
from billing.pages.site import word
from billing.subscriptions import mirror


@dataclass(frozen=True, slots=True)
class Shown:
    """The API's outlook, and the notices about it, which begin with the most important one."""

    dashboard: Dashboard
    now: datetime
    outlook: projection_answers.Outlook
    notices: Sequence[Banner]

    @property
    def banner(self) -> Banner | None:
        """The most important notice; None if there is none."""
        return next(iter(self.notices), None)

    @property
    def badges(self) -> list[Badge]:
        """The states of the subscription and the notices that are no banner, in a word each."""
        return banners.badges(self.dashboard, self.now, self.notices[1:])


def of(dashboard: Dashboard, now: datetime) -> Shown:
    """Returns the outlook of the signed-in user, whose dashboard this is."""
    found = projection_answers.outlook(site.user(), dashboard, now, site.deadline())
    return Shown(
        dashboard=dashboard,
        now=now,
        outlook=found,
        notices=banners.notices(
            dashboard,
            now,
            price=found.invoiced_price,
            runs_past=_runs_past(dashboard, now, found.features),
            unconfirmed=_unconfirmed(dashboard, now),
        ),
    )


def trouble() -> Banner | None:
    """Returns the notice about a payment of the visitor that failed or is disputed.

    None if there is none, or if nobody is signed in. For the pages that show no dashboard.
    """
    visitor = site.visitor()
    payment = dashboard_answers.payment_trouble(visitor.id) if visitor else None
    return None if payment is None else banners.trouble(payment)


def _unconfirmed(dashboard: Dashboard, now: datetime) -> Banner | None:
    """Returns a banner if Commet should have reported the user's changes there and has not
    answered.
    """
    db, user = wiring.database(), site.user().id
    if not dashboard.access or not mirror.in_doubt(db, user):
        return None
    newest = mirror.unanswered(db, [user], now).get(user)
    if newest is None:
        return None
    path = banners.BILLING if site.path().startswith(banners.BILLING) else site.HOME
    return Banner("as_of", "", path, {"moment": formats.moment(newest, now)})


def _runs_past(
    dashboard: Dashboard, now: datetime, features: Sequence[FeatureOutlook]
) -> Banner | None:
    """Returns a banner for the first feature whose usage will pass the included quantity at
    this pace.
    """
    found = [
        (each.passes_on, each.usage)
        for each in features
        if each.passes_on is not None
        and each.usage.overage.enabled
        and each.usage.overage.unit_price is not None
    ]
    if not found or not dashboard.access:
        return None
    day, feature = min(found, key=lambda each: each[0])
    values = {
        "feature": feature.name,
        "day": formats.day(day, now),
        "unit": feature.unit or word("pricing.one"),
        "price": formats.unit_price(feature.overage.unit_price or "0", feature.overage.currency),
    }
    return Banner("runs_past", "warn", banners.LIMIT, values)
