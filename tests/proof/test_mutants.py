"""A sample of the faults that the tests have to notice; `make mutate` puts all of them in."""

from collections.abc import Iterator

import pytest

from tests.mutants.catalogue import Mutant, read
from tests.mutants.runner import Outcome, Scratch, scratch
from tests.proof.scale import scaled

MUTANTS = read()
STEP = len(MUTANTS) // scaled(full=8, reduced=1)


@pytest.fixture(scope="module")
def copy() -> Iterator[Scratch]:
    with scratch() as made:
        yield made


@pytest.mark.parametrize("mutant", MUTANTS[STEP // 2 :: STEP], ids=lambda mutant: mutant.name)
def test_a_fault_is_noticed(copy: Scratch, mutant: Mutant) -> None:
    """The tests that matter fail with it."""
    verdict = copy.judge(mutant, timeout=300)
    assert (verdict.outcome, verdict.detail) == (Outcome.KILLED, verdict.detail)
