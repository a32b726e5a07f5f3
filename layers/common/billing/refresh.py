"""Asking Commet for the truth about one user, and writing it down unless newer news came."""

from collections.abc import Collection
from datetime import datetime

from billing import commet_news, subscriptions
from billing.commet import Commet
from billing.commet_models import FeatureAccess, Subscription
from billing.db import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused
from billing.news import News


def refresh(
    db: Database, commet: Commet, user_id: str, *, now: datetime, deadline: Deadline
) -> None:
    """Reads the user's subscriptions and entitlements afresh.

    "No active subscription" is followed by a read of each row believed live or pending, by id:
    it says nothing about which of them ended. Raises CommetUnavailable or CommetRefused, and then
    what was not confirmed stays marked.
    """
    versions = dict(subscriptions.refreshable(db, user_id))
    answers = _subscriptions(commet, user_id, versions, deadline)
    live = next((a for a in answers if a.status in subscriptions.LIVE), None)
    # Everything is asked before anything is written: an answer that stays out takes no mark away.
    entitlements = (
        commet_news.entitlement_news(live.id, _features(commet, user_id, deadline))
        if live
        else News(features=[])
    )
    for answer in answers:
        _write(db, user_id, answer, versions.get(answer.id), now)
    # What it says is true at the moment it was asked for, not when it arrived.
    subscriptions.record_news(db, user_id, entitlements, at=now, now=now)


def _subscriptions(
    commet: Commet, user_id: str, known: Collection[str], deadline: Deadline
) -> list[Subscription]:
    active = commet.active_subscription(user_id, deadline)
    answers = [active] if active else []
    for subscription_id in known:
        if active is None or subscription_id != active.id:
            try:
                answers.append(commet.subscription(subscription_id, deadline))
            except CommetRefused as error:
                if error.commet_status != 404:
                    raise
                # Gone at Commet: its row stays as it is, and keeps no other from being confirmed.
    return answers


def _write(
    db: Database, user_id: str, answer: Subscription, version: int | None, now: datetime
) -> None:
    if version is None:
        news = commet_news.subscription_news(answer)
        subscriptions.record_news(db, user_id, news, at=answer.updated_at, now=now)
    else:
        known = commet_news.known_of(answer)
        subscriptions.confirm(db, answer.id, version, known, at=answer.updated_at)


def _features(commet: Commet, user_id: str, deadline: Deadline) -> list[FeatureAccess]:
    try:
        return commet.feature_access(user_id, deadline)
    except CommetRefused as error:
        # Which code tells that a customer may use nothing is not documented; a key that may not
        # ask, or a request that is wrong, says nothing about the customer.
        if error.commet_status in (402, 404):
            return []
        raise
