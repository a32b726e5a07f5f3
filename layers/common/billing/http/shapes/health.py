"""Whether the stack is well."""

from typing import Annotated

from pydantic import Field

from billing.http.json_schema import one_of
from billing.http.shapes.base import Reply


class Health(Reply):
    """The stack works."""

    status: Annotated[str, one_of("ok")] = Field(description="Always `ok`: else the status is 503.")
