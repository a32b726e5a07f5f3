"""What the stack costs, as told before it is deployed."""

import re
from collections.abc import Callable, Iterator

import pytest

from deploy.costs import (
    EVENTS_A_DAY,
    ROOT,
    Load,
    as_markdown,
    count_alarm_metrics,
    deliveries_a_day,
    described,
    estimate,
    main,
    table,
    usual_load,
)
from local.gateway.template import load_template
from tests.unit.cloudformation import TEMPLATE, load, of_type

Costs = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def costs() -> Costs:
    template = load_template(TEMPLATE)

    def of(load: Load, *, snapstart: bool = True, database: bool = True) -> dict[str, float]:
        return estimate(load, template, 40, snapstart=snapstart, database=database)

    return of


def snapshot_gb() -> float:
    """The memory of all functions that a route invokes, as a stack without operators has it."""
    template = load(TEMPLATE)
    usual = template["Globals"]["Function"]["MemorySize"]
    resources = template["Resources"].items()
    made = {name: each for name, each in resources if each.get("Condition") != "HasOps"}
    functions = of_type(made, "AWS::Serverless::Function").values()
    answering = [
        function.get("MemorySize", usual)
        for function in functions
        if any(event["Type"] == "HttpApi" for event in function.get("Events", {}).values())
    ]
    return float(sum(answering) / 1024)


class TestEstimate:
    def test_more_usage_costs_more(self, costs: Costs) -> None:
        totals = [sum(costs(usual_load(events)).values()) for events in EVENTS_A_DAY]
        assert totals == sorted(totals)
        assert totals[0] > 0

    def test_batches_save(self, costs: Costs) -> None:
        """By the request; what is stored is the same."""
        single, batched = (costs(Load(1_000_000, batch)) for batch in (1, 100))
        for kind in ("Lambda", "HTTP API", "Logs"):
            assert batched[kind] < single[kind] / 2
        assert batched["Aurora"] == single["Aurora"]

    def test_deliveries_are_as_many_as_the_template_lets_be(self) -> None:
        """By its interval and its calls a second; and no more than there is to tell."""
        often = load_template(TEMPLATE)
        seldom = load_template(TEMPLATE, {"DeliveryIntervalSeconds": "3600"})
        slow = load_template(TEMPLATE, {"CommetCallsPerSecond": "2"})
        assert deliveries_a_day(Load(100_000), often) == 100 * 2 * 24 * 12
        assert deliveries_a_day(Load(100_000), seldom) == 100 * 2 * 24
        assert deliveries_a_day(Load(10_000_000), slow) == 2 * 86_400
        assert (
            deliveries_a_day(Load(1_000), load_template(TEMPLATE, {"DeliveryIntervalSeconds": "1"}))
            == 1_000
        )

    def test_traces_are_one_a_second_and_a_twentieth_of_the_rest(self, costs: Costs) -> None:
        once, more = (costs(Load(86_400 * n))["Traces"] for n in (1, 3))
        assert more - once == pytest.approx(30.4 * 2 * 86_400 * 0.05 * 5 / 1e6)

    def test_environments_that_are_held_warm(self) -> None:
        """A gigabyte each, about 9 USD; their function has no snapshots then."""
        template = load_template(TEMPLATE)
        cold, warm, intel = (
            estimate(Load(0), template, 40, database=False, warm=n, architecture=architecture)
            for n, architecture in ((0, "arm64"), (10, "arm64"), (10, "x86_64"))
        )
        assert "Provisioned concurrency" not in cold
        assert warm["Provisioned concurrency"] == pytest.approx(87.6, abs=0.1)
        share = (snapshot_gb() - 1) / snapshot_gb()
        assert warm["SnapStart"] == pytest.approx(cold["SnapStart"] * share)
        assert intel["Provisioned concurrency"] == pytest.approx(109.4, abs=0.1)

    def test_the_other_architecture(self) -> None:
        """A quarter more for computing, nothing more for requests."""
        template, load = load_template(TEMPLATE), Load(10_000_000, batch=1_000)
        arm, intel = (
            estimate(load, template, 40, database=False, architecture=each)
            for each in ("arm64", "x86_64")
        )
        assert 1.15 < intel["Lambda"] / arm["Lambda"] < 1.25
        assert intel["Logs"] == arm["Logs"]

    def test_what_is_left_out_costs_nothing(self, costs: Costs) -> None:
        assert "SnapStart" not in costs(Load(0), snapstart=False)
        assert not {"Aurora", "NAT"} & costs(Load(0), database=False).keys()

    def test_snapshots_are_of_what_answers_http(self, costs: Costs) -> None:
        """By the gigabyte and second; the eight functions of ours have six gigabytes."""
        assert snapshot_gb() >= 6
        expected = snapshot_gb() * 30.4 * 86_400 * 0.0000015046
        assert costs(Load(0))["SnapStart"] == pytest.approx(expected)

    def test_an_alarm_on_a_sum_is_paid_for_by_the_metric(self) -> None:
        alarms = of_type(load(TEMPLATE)["Resources"], "AWS::CloudWatch::Alarm").values()
        sums = [alarm["Metrics"] for alarm in alarms if "Metrics" in alarm]
        made = [[p for p in parts if p.get("Fn::If", [""])[0] != "HasOps"] for parts in sums]
        expected = len(alarms) - len(sums) + sum(len(parts) - 1 for parts in made)
        assert count_alarm_metrics(TEMPLATE) == expected


class TestPage:
    def test_it_has_the_table(self) -> None:
        """A change of the template changes what it costs."""
        assert as_markdown(table()) in (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")

    def test_it_is_written_anew(self) -> None:
        """With what was changed by hand set right, and nothing else changed."""
        page = (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")
        wrong = page.replace("| **Together** | **", "| **Together** | **9").replace(
            " USD a month for the current ones", "0 USD a month for the current ones"
        )
        assert wrong != page
        assert described(wrong) == page

    def test_snapshots_cost_what_it_says(self, costs: Costs) -> None:
        page = (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")
        said = re.search(r"about (\d+) USD a month for the current ones", page)
        assert said
        assert costs(Load(0))["SnapStart"] == pytest.approx(int(said[1]), abs=0.5)

    def test_memory_and_time_are_the_templates(self) -> None:
        """Beside each the reason for it."""
        page = (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")
        row = r"^\| ([a-z_, ]+) \| (\d+) \| (\d+|see the template) \|"
        rows = re.findall(row, page, re.MULTILINE)
        told = {
            name: (int(memory), time) for names, memory, time in rows for name in names.split(", ")
        }
        functions = load_template(TEMPLATE).functions.values()
        assert told.keys() == {spec.code.name for spec in functions}
        assert functions
        for spec in functions:
            memory, time = told[spec.code.name]
            assert spec.memory_mb == memory, spec.name
            assert time in (str(int(spec.timeout_seconds)), "see the template"), spec.name


class TestCommandLine:
    def test_one_number(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--events-a-day", "5000", "--no-database"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("Lambda")
        assert lines[-1].startswith("Together")
        assert not any(line.startswith("Aurora") for line in lines)

    @pytest.mark.parametrize(
        ("flags", "changed"),
        [
            (["--no-snapstart"], {"SnapStart"}),
            (["--no-database"], {"Aurora", "NAT"}),
            (["--architecture", "x86_64"], {"Lambda"}),
            (["--warm", "3"], {"Provisioned concurrency", "SnapStart"}),
        ],
        ids=lambda each: each[0] if isinstance(each, list) else "",
    )
    def test_a_choice_changes_its_own_lines(
        self, flags: list[str], changed: set[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """And with them the sum, and nothing else."""
        usual, chosen = dict(self.lines([], capsys)), dict(self.lines(flags, capsys))
        kinds = usual.keys() | chosen.keys()
        assert {kind for kind in kinds if usual.get(kind) != chosen.get(kind)} == (
            changed | {"Together"}
        )

    def lines(
        self, flags: list[str], capsys: pytest.CaptureFixture[str]
    ) -> Iterator[tuple[str, str]]:
        """What is printed: each kind and its amount."""
        assert main(["--events-a-day", "5000000", *flags]) == 0
        for line in capsys.readouterr().out.splitlines():
            yield line[:28].strip(), line[28:]

    def test_the_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        main([])
        assert "10,000,000 events a day" in capsys.readouterr().out
