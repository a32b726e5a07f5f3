"""The features and plans for sale, read from a JSON or YAML file when the stand-in starts."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from standin.catalogue_file import Document, Place, UnreadableError, read

Interval = Literal["weekly", "monthly", "quarterly", "semiannual", "yearly", "one_time"]
Currency = Annotated[str, Field(pattern=r"^[a-z]{3}$")]
Code = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", min_length=1, max_length=100)]
# Strict, because otherwise 19.00 would be read as 19 cents.
Whole = Annotated[int, Field(ge=0, strict=True)]

DEFAULT_FILE = Path(__file__).with_name("catalogue.json")


class _Entry(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


def _with_id(entry: Any, prefix: str, name: object) -> Any:
    """Returns the entry of a file. If the entry has no id, adds one made of a name."""
    if not isinstance(entry, dict) or "id" in entry:
        return entry
    return {**entry, "id": f"{prefix}_{name}"}


class Feature(_Entry):
    """A feature of the organization's catalogue. Without an `id`, the id is made of the code."""

    id: str
    code: Code
    name: str
    type: Literal["boolean", "usage", "seats", "quota"]
    unit_name: str | None = None
    description: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_an_id(cls, entry: Any) -> Any:
        return _with_id(entry, "ftr", entry.get("code") if isinstance(entry, dict) else "")


class Overage(_Entry):
    """Usage beyond the included amount. `unit_price` is in the rate scale: 10000 = 1.00."""

    enabled: bool = False
    unit_price: Whole | None = None

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.enabled and self.unit_price is None:
            raise ValueError("overage that is enabled needs a unitPrice")
        if self.unit_price is not None and "enabled" not in self.model_fields_set:
            # Else usage beyond the included amount would be refused, and nothing would say why.
            raise ValueError("overage with a unitPrice needs enabled: true (or false)")
        return self


class RegionalOverage(_Entry):
    """The price of overage in a currency other than the organization's, in the rate scale."""

    currency: Currency
    overage_unit_price: Whole | None = None


class PlanFeature(_Entry):
    """What a plan grants of one feature."""

    code: Code
    enabled: bool = True
    included_amount: Whole = 0
    unlimited: bool = False
    overage: Overage = Overage()
    regional_prices: tuple[RegionalOverage, ...] = ()


class RegionalPrice(_Entry):
    """A price in a currency other than the organization's, in the minor unit."""

    currency: Currency
    price: Whole


class Price(_Entry):
    """One way to pay for a plan. `price` is in the minor unit.

    `included_credits` and `included_balance` are only listed; nobody gets them.
    """

    id: str
    billing_interval: Interval
    price: Whole
    is_default: bool = False
    trial_days: Whole = 0
    included_credits: Whole | None = None
    included_balance: Whole | None = None
    regional_prices: tuple[RegionalPrice, ...] = ()
    metadata: dict[str, Any] = {}


def _interval(price: Any) -> object:
    if not isinstance(price, dict):
        return ""
    return price.get("billingInterval", price.get("billing_interval"))


class Plan(_Entry):
    """A plan: metered, or free with limits.

    Without an `id`, the ids of a plan and of its prices are made of the plan's code.
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

    @model_validator(mode="before")
    @classmethod
    def _have_ids(cls, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        code, prices = entry.get("code"), entry.get("prices")
        if prices is None and "prices" not in entry and entry.get("isFree") is True:
            entry = {**entry, "prices": []}
        if isinstance(prices, list):
            prices = [_with_id(each, f"pp_{code}", _interval(each)) for each in prices]
            entry = {**entry, "prices": prices}
        return _with_id(entry, "pln", code)

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
        if mistakes := [*self._unknown_features(), *self._repeated_keys()]:
            raise PydanticCustomError(
                "catalogue",
                "{said}",
                {"said": "; ".join(said for _, said in mistakes), "mistakes": mistakes},
            )
        return self

    def _unknown_features(self) -> Iterator[tuple[Place, str]]:
        """Yields features of plans that the catalogue does not have, with their places."""
        known = {feature.code for feature in self.features}
        for n, plan in enumerate(self.plans):
            for m, feature in enumerate(plan.features):
                if feature.code not in known:
                    said = f"plan {plan.code} has the unknown feature {feature.code}"
                    yield ("plans", n, "features", m, "code"), said

    def _repeated_keys(self) -> Iterator[tuple[Place, str]]:
        """Yields keys that occur twice, with the places of the second ones."""
        for kind, keys in self._keys():
            seen: set[str] = set()
            for place, key in keys:
                if key in seen:
                    yield place, f"{kind} must be unique: {key}"
                seen.add(key)

    def _keys(self) -> Iterator[tuple[str, Iterable[tuple[Place, str]]]]:
        """Yields the keys that have to be unique, by the name of their kind."""
        features, plans = [*enumerate(self.features)], [*enumerate(self.plans)]
        yield "ids of features", ((("features", n, "id"), f.id) for n, f in features)
        yield "codes of features", ((("features", n, "code"), f.code) for n, f in features)
        yield "ids of plans", ((("plans", n, "id"), p.id) for n, p in plans)
        yield "codes of plans", ((("plans", n, "code"), p.code) for n, p in plans)
        yield (
            "ids of prices",
            (
                (("plans", n, "prices", m, "id"), price.id)
                for n, plan in plans
                for m, price in enumerate(plan.prices)
            ),
        )
        for n, plan in plans:
            granted: list[tuple[Place, str]] = [
                (("plans", n, "features", m, "code"), f.code) for m, f in enumerate(plan.features)
            ]
            yield f"features of plan {plan.code}", granted

    def feature(self, code: str) -> Feature | None:
        """The feature with that code."""
        return next((f for f in self.features if f.code == code), None)

    def plan(self, key: str) -> Plan | None:
        """The plan with that id or code."""
        return next((p for p in self.plans if key in {p.id, p.code}), None)


class CatalogueError(ValueError):
    """A catalogue file that cannot be used. The message names the file and its mistakes."""

    def __init__(self, file: Path, reasons: Iterable[str]) -> None:
        super().__init__("\n".join((f"The catalogue {file} cannot be used:", *reasons)))


_FIELDS = sorted(
    {
        str(field.alias)
        for model in (Feature, Overage, RegionalOverage, PlanFeature, RegionalPrice, Price, Plan)
        for field in model.model_fields.values()
    }
)


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Reads a catalogue file. Raises CatalogueError, which names the line of every mistake."""
    file = path or DEFAULT_FILE
    try:
        document = read(file)
        return Catalogue.model_validate(document.value)
    except OSError as error:
        raise CatalogueError(file, [f"  {error.strerror}"]) from None
    except UnreadableError as error:
        raise CatalogueError(file, (f"  {reason}" for reason in error.reasons)) from None
    except ValidationError as error:
        reasons = [r for each in error.errors(include_url=False) for r in _reasons(each, document)]
        raise CatalogueError(file, reasons) from None


def _reasons(error: ErrorDetails, document: Document) -> Iterator[str]:
    """Yields each mistake with its line and its place, counted from 0 like in JSON tools."""
    mistakes = (error.get("ctx") or {}).get("mistakes")
    for place, said in mistakes or [(error["loc"], _said(error))]:
        line = document.line(tuple(place))
        where = [f"line {line}"] if line else []
        where += [".".join(map(str, place))] if place else []
        yield f"  {', '.join(where)}: {said}" if where else f"  {said}"


def _said(error: ErrorDetails) -> str:
    field = str(error["loc"][-1]) if error["loc"] else ""
    match error["type"]:
        case "extra_forbidden":
            return _no_such_field(field)
        case "int_type" if field in {"price", "includedBalance"}:
            return "this is a whole number, in the minor unit of the currency: 1900 is 19.00"
        case "int_type" if field in {"unitPrice", "overageUnitPrice"}:
            return "this is a whole number, in ten-thousandths of the currency: 1000 is 0.10"
        case "string_pattern_mismatch" if field == "code":
            return "a code is written in a to z, 0 to 9 and _"
        case kind if kind in _IN_PLAIN_WORDS:
            return _IN_PLAIN_WORDS[kind]
    return error["msg"].removeprefix("Value error, ")


_IN_PLAIN_WORDS = {
    "missing": "this field is missing",
    "int_type": "this is a whole number, written without quotes",
    "string_type": "this is a text",
    "bool_parsing": "this is true or false",
    "bool_type": "this is true or false",
    "model_type": "this is an object with fields, such as {name: value}",
    "tuple_type": "this is a list",
}


def _no_such_field(field: str) -> str:
    if field == "currency":
        return "a catalogue has no currency: name it where you start, as in CURRENCY=eur make run"
    meant = get_close_matches(field, _FIELDS, 1)
    return "there is no such field" + (f"; do you mean {meant[0]}?" if meant else "")
