"""What is for sale: features and plans, read from a JSON file when the stand-in starts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

Interval = Literal["weekly", "monthly", "quarterly", "semiannual", "yearly", "one_time"]
Currency = Annotated[str, Field(pattern=r"^[a-z]{3}$")]
Code = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", min_length=1, max_length=100)]

DEFAULT_FILE = Path(__file__).with_name("catalogue.json")


class _Entry(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class Feature(_Entry):
    """A feature of the organization's catalogue."""

    id: str
    code: Code
    name: str
    type: Literal["boolean", "usage", "seats", "quota"]
    unit_name: str | None = None
    description: str | None = None


class Overage(_Entry):
    """What happens beyond the included amount. `unit_price` is rate scale: 10000 = 1.00."""

    enabled: bool = False
    unit_price: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.enabled and self.unit_price is None:
            raise ValueError("overage that is enabled needs a unitPrice")
        return self


class RegionalOverage(_Entry):
    """The price of overage in another currency than the organization's, in the rate scale."""

    currency: Currency
    overage_unit_price: int | None = Field(default=None, ge=0)


class PlanFeature(_Entry):
    """What a plan grants of one feature."""

    code: Code
    enabled: bool = True
    included_amount: int = Field(default=0, ge=0)
    unlimited: bool = False
    overage: Overage = Overage()
    regional_prices: tuple[RegionalOverage, ...] = ()


class RegionalPrice(_Entry):
    """A price in another currency than the organization's, in the minor unit."""

    currency: Currency
    price: int = Field(ge=0)


class Price(_Entry):
    """One way to pay for a plan. `price` is in the minor unit.

    `included_credits` and `included_balance` are listed, and nothing is granted of them.
    """

    id: str
    billing_interval: Interval
    price: int = Field(ge=0)
    is_default: bool = False
    trial_days: int = Field(default=0, ge=0)
    included_credits: int | None = Field(default=None, ge=0)
    included_balance: int | None = Field(default=None, ge=0)
    regional_prices: tuple[RegionalPrice, ...] = ()
    metadata: dict[str, Any] = {}


class Plan(_Entry):
    """A plan; metered, or free with limits.

    Plans of other models, seats and quotas are listed and can be bought. Their pools are always
    empty, and no seat can be set.
    """

    id: str
    code: Code
    name: str
    description: str | None = None
    consumption_model: Literal["metered", "credits", "balance"] | None = "metered"
    is_public: bool = True
    is_default: bool = False
    is_free: bool = False
    sort_order: int = 0
    plan_group_id: str | None = None
    metadata: dict[str, Any] = {}
    features: tuple[PlanFeature, ...]
    prices: tuple[Price, ...]

    def feature(self, code: str) -> PlanFeature | None:
        """What the plan grants of a feature, or None when it is not part of the plan."""
        return next((f for f in self.features if f.code == code), None)

    def price_for(self, interval: str | None) -> Price | None:
        """The price of an interval; without one, the default price."""
        if interval is None:
            return next((p for p in self.prices if p.is_default), next(iter(self.prices), None))
        return next((p for p in self.prices if p.billing_interval == interval), None)


class Catalogue(_Entry):
    """All features and plans, in the order they are listed."""

    features: tuple[Feature, ...]
    plans: tuple[Plan, ...]
    created_at: datetime = datetime(2026, 8, 1, tzinfo=UTC)

    @model_validator(mode="after")
    def _refers_to_itself(self) -> Self:
        known = {feature.code for feature in self.features}
        for plan in self.plans:
            for feature in plan.features:
                if feature.code not in known:
                    raise ValueError(f"plan {plan.code} has the unknown feature {feature.code}")
        for kind, keys in self._keys():
            again = [key for key, count in Counter(keys).items() if count > 1]
            if again:
                raise ValueError(f"{kind} must be unique: {', '.join(again)}")
        return self

    def _keys(self) -> Iterator[tuple[str, Iterable[str]]]:
        """What has to be unique, by what it is called."""
        yield "ids of features", (f.id for f in self.features)
        yield "codes of features", (f.code for f in self.features)
        yield "ids of plans", (p.id for p in self.plans)
        yield "codes of plans", (p.code for p in self.plans)
        yield "ids of prices", (price.id for plan in self.plans for price in plan.prices)
        for plan in self.plans:
            yield f"features of plan {plan.code}", (f.code for f in plan.features)

    def feature(self, code: str) -> Feature | None:
        """The feature with that code."""
        return next((f for f in self.features if f.code == code), None)

    def plan(self, key: str) -> Plan | None:
        """The plan with that id or code."""
        return next((p for p in self.plans if key in {p.id, p.code}), None)


class CatalogueError(ValueError):
    """A catalogue file that cannot be used; the message names the file and what is wrong."""

    def __init__(self, file: Path, reasons: Iterable[str]) -> None:
        super().__init__("\n".join((f"The catalogue {file} cannot be used:", *reasons)))


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Reads a catalogue file. Raises CatalogueError."""
    file = path or DEFAULT_FILE
    try:
        return Catalogue.model_validate_json(file.read_bytes())
    except OSError as error:
        raise CatalogueError(file, [f"  {error.strerror}"]) from None
    except ValidationError as error:
        raise CatalogueError(file, map(_reason, error.errors(include_url=False))) from None


def _reason(error: ErrorDetails) -> str:
    """Where it is, counted from 0 as JSON tools do, and what is wrong there."""
    where = ".".join(map(str, error["loc"]))
    said = error["msg"].removeprefix("Value error, ")
    return f"  {where}: {said}" if where else f"  {said}"
