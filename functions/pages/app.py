"""The pages: HTML for people, from the prices to the last invoice. The rest is in billing.pages."""

from pathlib import Path
from typing import Any

from billing.deadline import LambdaContext
from billing.http import api
from billing.pages import (  # noqa: F401 - each adds its routes
    account,
    buying,
    entering,
    files,
    managing,
    overview,
    pricing,
    site,
    usage,
)

site.load(Path(__file__).parent)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(site.app, event, context)
