"""The card with a user's thresholds: which apply, and the form that adds one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from billing.http import threshold_answers
from billing.http.shapes.dashboard import Dashboard, UsageReply
from billing.http.shapes.limits import CreateThreshold, ThresholdReply
from billing.pages import formats, forms, site
from billing.pages.forms import Values
from billing.pages.site import word

# A feature's code has no hyphen, so this is no code of a feature.
SPEND = "-spend"


@dataclass(frozen=True, slots=True)
class Line:
    """A threshold in words. `id` is "" unless it is the user's own, who may remove it.

    `reached` has the feature's name ("" if `about` says it) and the time at which it was reached.
    """

    about: str
    value: str
    id: str
    reached: list[tuple[str, datetime]]


@dataclass(frozen=True, slots=True)
class Card:
    """The thresholds that apply, and the features for which one can be added: code and name."""

    lines: list[Line]
    choices: list[tuple[str, str]]


def card(dashboard: Dashboard) -> Card:
    """Returns the signed-in user's card. Without overage, it has no spend thresholds."""
    features = {each.feature: each for each in dashboard.usage}
    found = threshold_answers.applying_to(site.user().id).thresholds
    choices = [(each.feature, each.name) for each in dashboard.usage]
    if dashboard.spending is not None:
        choices.append((SPEND, word("overview.alert_spend")))
    lines = [
        Line(
            about=_about(each, features),
            value=_value(each, features, dashboard),
            id=each.id or "" if each.set_by == "user" else "",
            reached=[
                (_name(one.feature, features) if each.feature is None else "", one.reached_at)
                for one in each.reached or ()
            ],
        )
        for each in found
        if each.measure == "usage" or dashboard.spending is not None
    ]
    return Card(lines, choices)


def read(values: Values) -> CreateThreshold:
    """Returns the threshold in the form that was sent. Raises InvalidRequest."""
    typed = forms.number(values.get("alert_value", "").lstrip("$€£¥ ").rstrip("% "))
    of = values.get("alert_of", "")
    fields: dict[str, Any] = {"measure": "spend"} if of == SPEND else {"feature": of}
    if values.get("alert_in") == "amount":
        fields["amount"] = typed
    elif typed:
        # A text that is no whole number is not converted, so that the API's rules refuse it.
        fields["percent"] = int(typed) if typed.isdecimal() and typed.isascii() else typed
    return forms.checked(CreateThreshold, fields)


def _about(found: ThresholdReply, features: dict[str, UsageReply]) -> str:
    if found.measure == "spend":
        return word("overview.alert_spend")
    if found.feature is None:
        return word("overview.alert_each")
    return _name(found.feature, features)


def _name(code: str | None, features: dict[str, UsageReply]) -> str:
    """The feature's name, else its code; "" for the cost of all features."""
    feature = features.get(code or "")
    return feature.name if feature else code or ""


def _value(found: ThresholdReply, features: dict[str, UsageReply], dashboard: Dashboard) -> str:
    if found.percent is not None:
        of = "spend" if found.measure == "spend" else "usage"
        return word(f"overview.alert_percent_{of}", percent=found.percent)
    amount = found.amount or "0"
    if found.measure == "spend":
        assert dashboard.spending is not None  # noqa: S101 - `card` leaves the line out
        return str(formats.money(amount, dashboard.spending.currency))
    feature = features.get(found.feature or "")
    return f"{formats.quantity(amount)} {feature.unit or '' if feature else ''}".strip()
