"""Adds, lists, changes and removes thresholds, for the API and for the pages."""

from typing import Literal

from aws_lambda_powertools.event_handler import Response

from billing import wiring
from billing.amounts import format_decimal
from billing.http import api
from billing.http.shapes.limits import (
    ChangeThreshold,
    CreateThreshold,
    ThresholdList,
    ThresholdReached,
    ThresholdReply,
)
from billing.usage import thresholds
from billing.usage.thresholds import Level, Reached, Threshold


def add(
    user_id: str | None, asked: CreateThreshold, *, by: Literal["operator", "product", "user"]
) -> Response[ThresholdReply]:
    """Adds a threshold of a user, or of all users if `user_id` is None: 201, or 200 for an equal
    one.

    Raises the errors of `thresholds.add`.
    """
    level = Level(asked.measure, asked.feature, asked.percent, asked.amount)
    found, is_new = thresholds.add(
        wiring.database(), user_id, level, set_by=by, rules=wiring.rules(), now=wiring.now()
    )
    (reply,) = _replies([found], user_id)
    return api.json_response(reply, 201 if is_new else 200)


def applying_to(user_id: str) -> ThresholdList:
    """Returns the thresholds that apply to a user, including the defaults."""
    found = thresholds.applying_to(wiring.database(), user_id)
    return ThresholdList(thresholds=_replies(found, user_id))


def of(user_id: str | None) -> ThresholdList:
    """Returns the thresholds added for a user. If `user_id` is None, those of all users."""
    found = thresholds.of(wiring.database(), user_id)
    return ThresholdList(thresholds=_replies(found, user_id))


def one(threshold_id: str, *, user_id: str | None) -> ThresholdReply:
    """Returns one threshold. If `user_id` is not None, only one for this user or for all users.

    Raises NotFound.
    """
    found = thresholds.get(wiring.database(), threshold_id, user_id=user_id)
    (reply,) = _replies([found], user_id or found.user_id)
    return reply


def change(threshold_id: str, asked: ChangeThreshold, *, user_id: str | None) -> ThresholdReply:
    """Changes a user's own threshold. If `user_id` is None, one of the product.

    Raises the errors of `thresholds.change`.
    """
    changed = thresholds.change(
        wiring.database(),
        threshold_id,
        percent=asked.percent,
        amount=asked.amount,
        user_id=user_id,
        rules=wiring.rules(),
        now=wiring.now(),
    )
    (reply,) = _replies([changed], user_id or changed.user_id)
    return reply


def remove(threshold_id: str, *, user_id: str | None) -> None:
    """Removes a user's own threshold. If `user_id` is None, one of the product. Raises NotFound."""
    thresholds.remove(
        wiring.database(),
        threshold_id,
        user_id=user_id,
        rules=wiring.rules(),
        now=wiring.now(),
    )


def _replies(found: list[Threshold], user_id: str | None) -> list[ThresholdReply]:
    """Returns the answers, with what the user has reached; without it for all users."""
    if user_id is None:
        return [_reply(each, None) for each in found]
    reached = thresholds.reached_by(wiring.database(), user_id)
    return [_reply(each, [one for one in reached if one.is_of(each)]) for each in found]


def _reply(found: Threshold, reached: list[Reached] | None) -> ThresholdReply:
    return ThresholdReply(
        id=found.id,
        user_id=found.user_id,
        set_by=found.set_by,
        measure=found.measure,
        feature=found.feature,
        percent=found.percent,
        amount=None if found.amount is None else format_decimal(found.amount),
        created_at=found.created_at,
        reached=None
        if reached is None
        else [ThresholdReached(feature=each.feature, reached_at=each.at) for each in reached],
    )
