"""What `bench.sustained` computes from what it has measured."""

import math
from decimal import Decimal

import pytest

from bench.promises import (
    Promise,
    all_kept,
    growth,
    percentile,
    same_sums,
    stays_flat,
    thirds,
)


class TestPercentile:
    @pytest.mark.parametrize(
        ("percent", "value"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)]
    )
    def test_it_is_one_of_the_values_that_so_many_do_not_exceed(
        self, percent: float, value: float
    ) -> None:
        assert percentile(list(range(100, 0, -1)), percent) == value

    def test_of_few_values_the_99th_is_the_largest(self) -> None:
        assert percentile([3, 9, 4], 99) == 9

    def test_there_is_none_of_nothing(self) -> None:
        with pytest.raises(ValueError, match="no value"):
            percentile([], 50)


class TestThirds:
    def test_they_are_thirds_of_the_time_and_not_of_the_values(self) -> None:
        series = [(0.0, 1.0), (29.9, 2.0), (30.0, 3.0), (59.9, 4.0), (60.0, 5.0), (91.0, 6.0)]
        assert thirds(series, 90) == ([1.0, 2.0], [5.0, 6.0])


class TestGrowth:
    @pytest.mark.parametrize(
        ("first", "last", "times"), [(10, 13, 1.3), (10, 5, 0.5), (0, 0, 1), (0, 1, math.inf)]
    )
    def test_it_says_how_many_times(self, first: float, last: float, times: float) -> None:
        assert growth(first, last) == times


class TestStaysFlat:
    def test_the_limit_itself_is_flat(self) -> None:
        promise = stays_flat("It is flat.", "MB", (100, 130))
        assert promise.kept
        assert promise.measured == "100 → 130 MB (1.30)"

    def test_what_shrinks_is_flat(self) -> None:
        assert stays_flat("It is flat.", "MB", (100, 10)).kept

    def test_more_than_the_limit_is_not(self) -> None:
        assert not stays_flat("It is flat.", "MB", (100, 131)).kept

    def test_one_pair_of_several_breaks_the_promise(self) -> None:
        """The memory of all processes may shrink while one of them grows."""
        promise = stays_flat("It is flat.", "MB", (800, 700), (50, 80))
        assert not promise.kept
        assert promise.measured == "800 → 700 MB (0.88), 50 → 80 MB (1.60)"


BOTH = {"ada": Decimal("0.3"), "bob": Decimal(2)}


class TestSameSums:
    def test_equal_sums_of_each_user_keep_it(self) -> None:
        promise = same_sums("The same.", BOTH, {"bob": Decimal("2.0"), "ada": Decimal("0.30")})
        assert promise.kept
        assert promise.measured == "2.3 of 2.3, 2 users"

    def test_an_event_that_went_to_another_user_breaks_it(self) -> None:
        """The sums of all users are equal then."""
        found = {"ada": Decimal("0.4"), "bob": Decimal("1.9")}
        promise = same_sums("The same.", BOTH, found)
        assert not promise.kept
        assert promise.measured == "2.3 of 2.3, 2 users; 2 differ: ada 0.4 of 0.3"

    @pytest.mark.parametrize("missing", ["wanted", "found"])
    def test_a_user_who_is_missing_on_one_side_breaks_it(self, missing: str) -> None:
        sides = {"wanted": BOTH, "found": BOTH} | {missing: {"ada": Decimal("0.3")}}
        assert not same_sums("The same.", **sides).kept

    def test_a_run_that_sent_nothing_has_shown_nothing(self) -> None:
        assert not same_sums("The same.", {}, {}).kept


class TestAllKept:
    def test_one_broken_promise_is_enough(self) -> None:
        kept, broken = Promise("One.", "", kept=True), Promise("Another.", "", kept=False)
        assert all_kept([kept, kept])
        assert not all_kept([kept, broken, kept])

    def test_without_a_promise_nothing_was_shown(self) -> None:
        assert not all_kept([])
