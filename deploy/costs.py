"""Estimates what the stack costs in a month.

    python -m deploy.costs [--events-a-day N [--batch N]] [--no-snapstart] [--no-database]

The prices are list prices of us-east-1 in US dollars, without free tiers, discounts and taxes. So
the result is an order of magnitude and not a bill. docs/aws.md lists the assumptions, beside the
table that this program prints. Sizes, alarms and schedules are read from the template.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from local.gateway.template import Template, load_template

ROOT = Path(__file__).resolve().parent.parent
DAYS = 30.4
HOURS = 24 * DAYS
DAY_SECONDS = 86_400

# --- prices of 2026; for current prices see https://aws.amazon.com/pricing ----------------------
_LAMBDA_GB_SECOND = {"arm64": 0.0000133334, "x86_64": 0.0000166667}
_WARM_GB_SECOND = {"arm64": 0.0000033334, "x86_64": 0.0000041667}
_LAMBDA_REQUEST = 0.20 / 1e6
_SNAPSHOT_GB_SECOND = 0.0000015046
_API_REQUEST = 1.00 / 1e6
_LOG_GB = 0.50
_METRIC = 0.30
_ALARM_METRIC = 0.10
_DASHBOARD = 3.00
_TRACE = 5.00 / 1e6
_SECRET = 0.40
_KEY = 1.00
_ACU_HOUR = 0.12
_STORAGE_GB = 0.10
_DATABASE_IO = 0.20 / 1e6
_NAT_HOUR = 0.045 + 0.005  # with its public address
_NAT_GB = 0.045

# --- assumptions ----------------------------------------------------------------------------------
EVENTS_A_DAY = (0, 1_000, 100_000, 10_000_000)
EVENTS_PER_USER = 1_000  # a day
PAGES_PER_USER = 5  # requests a day: plans, dashboard, portal
WEBHOOKS_PER_USER = 4 / DAYS  # a day
FEATURES_PER_USER = 2  # metered features, used all day long
REQUEST_SECONDS = 0.05
EVENT_SECONDS = 0.0004  # each further event of a batch
DELIVERY_SECONDS = 0.15 / 8  # eight calls at a time
IDLE_RUN_SECONDS = 0.3
LOG_BYTES = 2_400  # per invocation: Lambda's report, a line or two, a metric, the access log
EVENT_BYTES = 500  # in the ledger, with its index
EVENT_IOS = 0.15
SECRETS = 8  # five of the deployer, three that the stack creates
METRICS = 50
# Per day and function: X-Ray traces one request a second, and 5% of the others.
TRACED, TRACED_OF_THE_REST = DAY_SECONDS, 0.05


@dataclass(frozen=True, slots=True)
class Load:
    """The usage events of a day, and how many of them one request carries."""

    events: int
    batch: int = 1

    @property
    def users(self) -> float:
        return self.events / EVENTS_PER_USER

    @property
    def usage_requests(self) -> float:
        return self.events / self.batch

    @property
    def requests(self) -> float:
        """Requests to the API in a day. Webhooks are not included, because they have their own
        URL.
        """
        return self.usage_requests + self.users * PAGES_PER_USER

    @property
    def webhooks(self) -> float:
        return self.users * WEBHOOKS_PER_USER


def usual_load(events_a_day: int) -> Load:
    """Returns a load. Products with more than a million events a day send batches of 100."""
    return Load(events_a_day, batch=100 if events_a_day > 1_000_000 else 1)


def estimate(
    load: Load,
    template: Template,
    alarm_metrics: int,
    *,
    snapstart: bool = True,
    database: bool,
    architecture: str = "arm64",
    warm: int = 0,
) -> dict[str, float]:
    """Returns US dollars a month, by kind of cost.

    `database`: include the optional second template, database.yaml. `warm`: the number of
    environments of provisioned concurrency for TrackUsageFunction, which then has no snapshots.
    """
    runs = len(template.schedules) * 24 * 60
    memory = {name: spec.memory_mb / 1024 for name, spec in template.functions.items()}
    deliveries = deliveries_a_day(load, template)
    usage_seconds = REQUEST_SECONDS + EVENT_SECONDS * (load.batch - 1)
    gb_seconds = (
        load.usage_requests * usage_seconds * memory["TrackUsageFunction"]
        + (load.users * PAGES_PER_USER) * REQUEST_SECONDS * memory["DashboardFunction"]
        + load.webhooks * REQUEST_SECONDS * memory["WebhookFunction"]
        + deliveries * DELIVERY_SECONDS * memory["DeliverUsageFunction"]
        + runs * IDLE_RUN_SECONDS * memory["DeliverUsageFunction"]
    )
    invocations = load.requests + load.webhooks + runs
    traced = _traced(load.usage_requests) + _traced(runs)
    costs = {
        "Lambda": DAYS
        * (gb_seconds * _LAMBDA_GB_SECOND[architecture] + invocations * _LAMBDA_REQUEST),
        "HTTP API": DAYS * load.requests * _API_REQUEST,
        "Logs": DAYS * invocations * LOG_BYTES / 1e9 * _LOG_GB,
        "Traces": DAYS * traced * _TRACE,
        "Metrics, alarms, dashboard": METRICS * _METRIC
        + alarm_metrics * _ALARM_METRIC
        + _DASHBOARD,
        "Secrets, key": SECRETS * _SECRET + _KEY,
    }
    if snapstart:
        names = _http_functions(template) - ({"TrackUsageFunction"} if warm else set())
        cached_gb = sum(memory[name] for name in names)
        costs["SnapStart"] = cached_gb * HOURS * 3600 * _SNAPSHOT_GB_SECOND
    if warm:
        warm_gb = warm * memory["TrackUsageFunction"]
        costs["Provisioned concurrency"] = warm_gb * HOURS * 3600 * _WARM_GB_SECOND[architecture]
    if database:
        costs |= _database(load, deliveries)
    return costs


def deliveries_a_day(load: Load, template: Template) -> float:
    """Returns the number of deliveries to Commet in a day.

    A user and feature has at most one delivery per DELIVERY_INTERVAL_SECONDS, because a delivery
    contains all usage since the last one. COMMET_CALLS_PER_SECOND limits all deliveries together.
    """
    environment = template.functions["DeliverUsageFunction"].environment
    intervals = DAY_SECONDS / int(environment["DELIVERY_INTERVAL_SECONDS"])
    due = min(load.users * FEATURES_PER_USER * intervals, load.events)
    return min(due, DAY_SECONDS * int(environment["COMMET_CALLS_PER_SECOND"]))


def _traced(invocations: float) -> float:
    rest = max(invocations - TRACED, 0)
    return invocations - rest + TRACED_OF_THE_REST * rest


def _database(load: Load, deliveries: float) -> dict[str, float]:
    stored_gb = DAYS * load.events * EVENT_BYTES / 1e9
    sent_gb = DAYS * deliveries * 3_000 / 1e9
    return {
        "Aurora": _capacity(load.events) * HOURS * _ACU_HOUR
        + stored_gb * _STORAGE_GB
        + DAYS * load.events * EVENT_IOS * _DATABASE_IO
        + _KEY,
        "NAT": HOURS * _NAT_HOUR + sent_gb * _NAT_GB,
    }


def _capacity(events_a_day: int) -> float:
    """Returns Aurora's average capacity units. In a test, two cores took 25,000 events/s in
    batches.
    """
    return 0.5 if events_a_day <= 100_000 else 2.0


def _http_functions(template: Template) -> set[str]:
    return {route.function for route in template.api.routes} if template.api else set()


def table(path: Path = ROOT / "template.yaml") -> list[list[str]]:
    """Returns the table in docs/aws.md: its head, and a row of costs for each kind."""
    template, alarms = load_template(path), count_alarm_metrics(path)
    columns = [
        estimate(usual_load(events), template, alarms, database=True) for events in EVENTS_A_DAY
    ]
    head = ["A month, in USD", *(f"{events:,} events a day" for events in EVENTS_A_DAY)]
    rows = [[kind, *(_dollars(c[kind]) for c in columns)] for kind in columns[0]]
    return [head, *rows, ["**Together**", *(f"**{_dollars(sum(c.values()))}**" for c in columns)]]


@cache
def count_alarm_metrics(path: Path) -> int:
    """Returns the number of metrics in all alarms. AWS charges for an alarm by its metrics."""

    class Loader(yaml.SafeLoader):
        """Reads `!Function value` as the value."""

    def argument(loader: Loader, _: str, node: yaml.Node) -> object:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return node.value

    Loader.add_multi_constructor("!", argument)
    document = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a SafeLoader
    return sum(
        _metrics(resource["Properties"])
        for resource in document["Resources"].values()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    )


def _metrics(alarm: Mapping[str, Any]) -> int:
    """Returns the metrics of an alarm in a default stack: with pages, without operators.

    A metric with a condition is an `!If`, which is read as a list.
    """
    listed = alarm.get("Metrics", [])
    made = [part for part in listed if not (isinstance(part, list) and part[0] == "HasOps")]
    parts = [part[1] if isinstance(part, list) else part for part in made]
    return sum("MetricStat" in part for part in parts) or 1


def _dollars(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 10 else f"{amount:.1f}"


def described(page: str, path: Path = ROOT / "template.yaml") -> str:
    """Returns the text of docs/aws.md with the present table and the present costs of snapshots."""
    old = re.compile(r"^\| A month, in USD .*?^\| \*\*Together\*\*[^\n]*", re.MULTILINE | re.DOTALL)
    snapshots = estimate(Load(0), load_template(path), 0, database=False)["SnapStart"]
    page = old.sub(lambda _: as_markdown(table(path)), page, count=1)
    said = f"about {snapshots:.0f} USD a month for the current ones"
    return re.sub(r"about \d+ USD a month for the current ones", said, page, count=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.costs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--events-a-day", type=int, help="usage events a day (default: a table for four numbers)"
    )
    parser.add_argument(
        "--no-snapstart", action="store_true", help="costs with the parameter SnapStart=None"
    )
    parser.add_argument(
        "--architecture", choices=[*_LAMBDA_GB_SECOND], default="arm64", help="default: arm64"
    )
    parser.add_argument(
        "--warm",
        type=int,
        default=0,
        help="costs with the parameter UsageProvisionedConcurrency=WARM",
    )
    parser.add_argument("--no-database", action="store_true", help="costs without database.yaml")
    parser.add_argument("--write", action="store_true", help="write the table into docs/aws.md")
    given = parser.parse_args(arguments)
    if given.write:
        page = ROOT / "docs" / "aws.md"
        page.write_text(described(page.read_text(encoding="utf-8")), encoding="utf-8")
        print("Wrote docs/aws.md.")
        return 0
    if given.events_a_day is None:
        print(as_markdown(table()))
        return 0
    path = ROOT / "template.yaml"
    costs = estimate(
        usual_load(given.events_a_day),
        load_template(path),
        count_alarm_metrics(path),
        snapstart=not given.no_snapstart,
        database=not given.no_database,
        architecture=given.architecture,
        warm=given.warm,
    )
    for kind, amount in [*costs.items(), ("Together", sum(costs.values()))]:
        print(f"{kind:<28} {_dollars(amount):>8} USD a month")
    return 0


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown, as it is in docs/aws.md."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" + "|--:" * (len(rows[0]) - 1) + "|", *body])


if __name__ == "__main__":
    raise SystemExit(main())
