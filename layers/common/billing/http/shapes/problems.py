"""Errors as problem documents."""

from datetime import datetime
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from billing.errors import TITLES
from billing.http.json_schema import known
from billing.http.shapes.base import Amount, Reply


class WrongField(TypedDict):
    """One field that is wrong. The field's value is never repeated."""

    field: Annotated[
        str,
        Field(
            description="The path to the field in the body, or the name of the parameter.",
            examples=["quantity"],
        ),
    ]
    code: Annotated[
        str, Field(description="What is wrong, for programs.", examples=["greater_than"])
    ]
    message: Annotated[
        str,
        Field(
            description="What is wrong, for people.", examples=["Input should be greater than 0"]
        ),
    ]


class Problem(Reply):
    """An error as an RFC 9457 problem document. Programs read `code`, which is stable."""

    type: str = Field(
        description="The address of this problem's explanation, relative to the API.",
        examples=["/docs/problems#limit_reached"],
        json_schema_extra={"format": "uri-reference"},
    )
    title: str = Field(
        description="What is the matter, the same text for each problem with this code.",
        examples=["The plan's included quantity is used up"],
    )
    status: int = Field(description="The HTTP status of the answer.", examples=[402])
    detail: str = Field(
        description="What is the matter in this request, for people.",
        examples=["Less of the included quantity is left than was asked for."],
    )
    code: Annotated[str, known(*TITLES)] = Field(
        description="Which problem it is. New codes may be added.", examples=["limit_reached"]
    )
    request_id: str = Field(
        description="The id of the request. Name it when you ask for help: the log has it.",
        examples=["JKJaXmPLvHcESHA="],
    )
    errors: list[WrongField] = Field(
        default=[], description="Of `invalid_request`: the wrong fields, at most 20."
    )
    as_of: datetime | None = Field(
        default=None,
        description="Of `access_unconfirmed`: the time of our newest information about the"
        " subscription.",
        examples=["2026-03-01T09:30:00+00:00"],
    )
    amount: Amount | None = Field(
        default=None,
        description="Of `debt_open`: how much the user owes, in units of `currency`.",
        examples=["12.40"],
    )
    currency: str | None = Field(
        default=None,
        description="Of `debt_open`: the currency of `amount`, an ISO 4217 code in lower case.",
        examples=["usd"],
    )
    pay_url: str | None = Field(
        default=None,
        description="Of `debt_open`: the page on which the user pays. Null where there is none.",
        examples=["https://commet.co/pay/plink_7Qd2"],
        json_schema_extra={"format": "uri"},
    )
