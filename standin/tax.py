"""Tax on charges: one rate for everybody, added to prices."""

from decimal import ROUND_HALF_UP, Decimal

from standin.world import World


def tax_on(world: World, amount: int) -> int:
    """The tax on an amount, both in the minor unit; half a unit is rounded up."""
    exact = max(0, amount) * world.settings.tax_percent / 100
    return int(exact.quantize(Decimal(1), ROUND_HALF_UP))


def with_tax(world: World, amount: int) -> int:
    """The amount together with its tax, in the minor unit."""
    return amount + tax_on(world, amount)
