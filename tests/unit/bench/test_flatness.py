"""What `bench.sustained` computes from what it has measured."""

import math

import pytest

from bench.flatness import growth, percentile, stays_flat, thirds


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
