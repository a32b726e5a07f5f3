"""The operators' page, with the templates of the pages. Made where `Operators` names somebody."""

from pathlib import Path
from typing import Any

from billing.deadline import LambdaContext
from billing.http import api
from billing.pages import operators, site  # noqa: F401 - it adds its routes

site.load(Path(__file__).parent)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(site.app, event, context)
