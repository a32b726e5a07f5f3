"""The words of each mail, and the path of its link.

A mail contains the product's name and the recipient's own address, and no other text that a user
typed, so that a stranger who signs up with somebody's address cannot send a message to the owner.
Names of features and plans come from the operator.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one kind of mail. `$product`, `$address` and the mail's fields are replaced.

    A paragraph is left out if the mail does not have one of its fields.
    """

    subject: str
    before: tuple[str, ...]  # paragraphs above the link
    button: str = ""
    path: str | None = None  # the page of the link, below AppUrl; None: a mail without a link
    after: tuple[str, ...] = ()
    has_token: bool = True  # the link works once, and without signing in
    optional: bool = False  # the user may switch mails of this kind off


_SENT_TO = "This mail was sent to $address, the address of your account at $product."
_IGNORE = "If you did not ask for this, ignore this mail. Nothing changes then."

WORDS: Mapping[str, Words] = {
    "verify_email": Words(
        "Confirm your email address",
        (
            "Somebody made an account at $product with the address $address.",
            "If that was you, confirm the address.",
        ),
        "Confirm the address",
        "/verify-email",
        ("If it was not you, ignore this mail. The account cannot be used with your address.",),
    ),
    "email_changing": Words(
        "Confirm your new email address",
        (
            "Somebody wants to use $address for their account at $product.",
            "If that was you, confirm the address. Until then the account keeps its old one.",
        ),
        "Confirm the address",
        "/verify-email",
        (_IGNORE,),
    ),
    "reset_password": Words(
        "Set a new password",
        ("Somebody asked for a new password for the account at $product with $address.",),
        "Set a new password",
        "/reset-password",
        (_IGNORE,),
    ),
    "sign_in_link": Words(
        "Sign in",
        (
            "Somebody wants to sign in to $product with the address $address from a place that"
            " is not known yet.",
            "If that is you, sign in with this link.",
        ),
        "Sign in",
        "/sign-in",
        (
            "If it is not you, ignore this mail, and do not give the link to anybody. If it"
            " happens again, set a new password.",
        ),
    ),
    "email_changed_notice": Words(
        "Your email address was changed",
        (
            "The account at $product that used $address has a new email address. This address"
            " no longer belongs to it.",
            "If you did not do this, tell the support of $product at once.",
        ),
    ),
    "password_changed": Words(
        "Your password was changed",
        (
            "The password of your account at $product with $address was changed. All other"
            " sessions have ended.",
            "If you did not do this, set a new password at once, with the link for forgotten"
            " passwords.",
        ),
    ),
    "usage_threshold": Words(
        "Your usage of $feature",
        (
            "You have used $percent % of $feature that your plan at $product includes.",
            "Used in this period: $used.",
            "Included in your plan: $included.",
            "The next period begins on $date.",
        ),
        "See your usage",
        "/app",
        (_SENT_TO,),
        has_token=False,
        optional=True,
    ),
    "spend_threshold": Words(
        "Your spending",
        (
            "You have used $percent % of the limit for usage beyond your plan at $product.",
            "Spent in this period, beyond the price of the plan: $spent.",
            "Your limit: $limit.",
            "The next period begins on $date.",
        ),
        "See your usage and your limit",
        "/app",
        (_SENT_TO,),
        has_token=False,
        optional=True,
    ),
    "payment_failed": Words(
        "Your payment failed",
        (
            "A payment for your plan at $product failed.",
            "Amount: $amount.",
            "Pay it, or change your card, on your billing page.",
        ),
        "Open your billing page",
        "/app/billing",
        ("Without the payment your plan may end.", _SENT_TO),
        has_token=False,
    ),
    "trial_ending": Words(
        "Your trial ends soon",
        (
            "Your trial at $product ends on $date.",
            "Your plan is $plan. If you keep the plan, you pay its price from then on.",
            "To change or cancel the plan, open your billing page before that day.",
        ),
        "Open your billing page",
        "/app/billing",
        (_SENT_TO,),
        has_token=False,
    ),
}
