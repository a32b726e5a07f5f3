"""Everything recorded about a user, in parts, for the API and the pages."""

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import wiring
from billing.accounts import export
from billing.audit import trail
from billing.audit.trail import Action
from billing.http import api
from billing.http.shapes.accounts import Export


def part(app: APIGatewayHttpResolver, user_id: str, cursor: str | None) -> Export:
    """Returns the part at this cursor; None is the first part, whose caller the audit trail
    records.

    Raises the errors of `export.page`.
    """
    db, now = wiring.database(), wiring.now()
    found = export.page(db, user_id, cursor=cursor, now=now)
    if cursor is None:
        trail.write(db, api.actor(app), Action.EXPORTED, user_id=user_id)
    return Export(
        user_id=user_id, exported_at=now, sections=found.sections, next_cursor=found.next_cursor
    )


def next_cursor(user_id: str, cursor: str | None) -> str | None:
    """Returns the cursor of the part after the one at this cursor; None if that is the last.

    Raises the errors of `export.page`.
    """
    found = export.page(wiring.database(), user_id, cursor=cursor, now=wiring.now())
    return found.next_cursor
