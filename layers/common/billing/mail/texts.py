"""The words of each mail, and the path of its link.

A mail has the product's name and the recipient's own address, and nothing else that somebody typed:
a stranger who signs up with an address cannot write to its owner.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """What one kind of mail says. `$product` and `$address` are replaced.

    `path`: the page of the link, below AppUrl; None for a mail without a link.
    """

    subject: str
    before: tuple[str, ...]  # paragraphs above the link
    button: str = ""
    path: str | None = None
    after: tuple[str, ...] = ()


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
}
