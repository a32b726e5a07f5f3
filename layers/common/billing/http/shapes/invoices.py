"""Invoices."""

from typing import Annotated

from pydantic import Field

from billing.http.json_schema import known
from billing.http.shapes.base import Amount, Currency, NextCursor, Reply, Time, UsagePeriodReply


class InvoiceReply(Reply):
    """An invoice. Amounts are in units of `currency`."""

    id: str = Field(description="The invoice's id.", examples=["inv_b2"])
    number: str | None = Field(
        description="The number on the invoice. Null for a draft.", examples=["INV-0043"]
    )
    status: Annotated[str, known("paid", "outstanding", "draft", "void", "uncollectible")] = Field(
        description="Whether the invoice is paid."
    )
    type: str | None = Field(
        description="What the invoice is for. Null where the provider does not say.",
        examples=["recurring"],
    )
    currency: Currency
    subtotal: Amount = Field(description="The sum before tax.", examples=["29.00"])
    tax: Amount = Field(description="The tax.", examples=["5.51"])
    total: Amount = Field(description="What is to be paid.", examples=["34.51"])
    period: UsagePeriodReply | None = Field(
        description="The period that the invoice is about. Null where there is none."
    )
    issued_at: Time | None = Field(description="When it was issued. Null for a draft.")
    due_at: Time | None = Field(description="By when it is to be paid. Null where not said.")


class InvoicePage(Reply):
    """Some invoices of a user."""

    invoices: list[InvoiceReply] = Field(description="Newest first.")
    next_cursor: NextCursor


class InvoiceLineReply(Reply):
    """One line of an invoice."""

    type: str = Field(description="What the line is for.", examples=["feature_overage"])
    description: str = Field(
        description="The line's text, for people.", examples=["Storage beyond 1,000 GB"]
    )
    feature: str | None = Field(
        description="The feature's name. Null unless of usage.", examples=["Storage"]
    )
    used: Amount | None = Field(
        description="The quantity used. Null unless of usage.", examples=["1250"]
    )
    included: Amount | None = Field(
        description="The included quantity. Null unless of usage.", examples=["1000"]
    )
    overage: Amount | None = Field(
        description="The quantity that is charged. Null unless of usage.", examples=["250"]
    )
    amount: Amount = Field(
        description="What the line costs, in units of the invoice's currency.", examples=["0.50"]
    )


class InvoiceDetail(InvoiceReply):
    """An invoice with its lines. Amounts are in units of `currency`."""

    lines: list[InvoiceLineReply] = Field(description="The invoice's lines, in its order.")
    pdf_url: str = Field(
        description="The address of the PDF. Good for a week.",
        examples=["https://commet.co/invoices/inv_b2.pdf"],
        json_schema_extra={"format": "uri"},
    )
