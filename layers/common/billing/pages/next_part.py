"""The page that leads from one part of a long file to the next."""

from typing import Any

from aws_lambda_powertools.event_handler import Response

from billing.pages import site
from billing.pages.site import word


def page(*, download: str, after: str, back: str, cursor: str | None) -> Response[Any]:
    """Returns a page with links to the part at `cursor`, and to this page for the part after it.

    `cursor` is None if there is no further part. `download` and `after` are addresses that end with
    the name of the cursor's parameter and "=". `back` is the address of the page before.
    """
    links = [(back, word("next_part.back"))]
    if cursor is not None:
        links = [
            (download + cursor, word("next_part.download")),
            (after + cursor, word("next_part.after")),
            *links,
        ]
    title = word("next_part.title")
    return site.page(
        "one_step.html",
        title=title,
        heading=title,
        lines=[word("next_part.none" if cursor is None else "next_part.text")],
        problem="",
        action="",
        links=links,
    )
