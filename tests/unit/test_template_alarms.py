"""Whoever is woken up finds out why, where to look and what to do; and nothing rings for a metric
that nobody writes."""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from billing.metric import Metric
from tests.unit.cloudformation import ROOT, TEMPLATE, called, load, of_type, translate
from tests.unit.markdown import sections
from tests.unit.source import BILLING, modules_of, parse

RUNBOOK = ROOT / "docs" / "operations.md"
FUNCTIONS = sorted(app.parent.name for app in ROOT.glob("functions/*/app.py"))
NAMESPACE = {"Fn::Sub": "UsageBilling/${AWS::StackName}"}
# They look at what waits. Where nobody measures, it goes on waiting.
KEEP_THEIR_STATE = (
    "OutboxAgeAlarm",
    "ParkedDeliveriesAlarm",
    "UsageDriftAlarm",
    "DebtsPaidTwiceAlarm",
    "FailedWebhooksAlarm",
    "DeadWebhooksAlarm",
    "EndpointMissingAlarm",
    "FailureQueueAlarm",
    "EventsNotLoggedAlarm",
    "EventsFailedAlarm",
)
WATCHED = "metric.count_for_watched_build"
# What AWS writes by itself, as its own documentation names it.
AWS_METRICS = {
    "AWS/ApiGateway": {"Count", "4xx", "5xx", "Latency"},
    "AWS/Lambda": {
        "ConcurrentExecutions", "Duration", "Errors", "Invocations", "Throttles",
        "Url4xxCount", "Url5xxCount", "UrlRequestCount", "UrlRequestLatency",
    },
    "AWS/RDS": {"DatabaseConnections", "ACUUtilization"},
    "AWS/SQS": {"ApproximateNumberOfMessagesVisible"},
}  # fmt: skip


# --- what the code writes --------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """Metrics that one call writes, and the service it names if that is not its function's own."""

    names: frozenset[str]
    service: str | None


@cache
def written_in(path: Path) -> tuple[Written, ...]:
    """By each call in a module that writes metrics, as far as the names can be read there."""
    return tuple(
        Written(frozenset(names_of(call.args[0], path)), service_of(call))
        for call in ast.walk(parse(path))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("metrics.add_metric", "metric.count", WATCHED)
    )


def service_of(call: ast.Call) -> str | None:
    if ast.unparse(call.func) == WATCHED:
        return "build"
    given = [k.value for k in call.keywords if k.arg == "service"]
    return str(ast.literal_eval(given[0])) if given else None


def names_of(argument: ast.expr, path: Path) -> set[str]:
    """A metric named as it is, or those of a table of the module."""
    match argument:
        case ast.Attribute(value=kind, attr=member) if ast.unparse(kind).endswith("Metric"):
            return {Metric[member].value}
        case ast.Subscript(value=ast.Name(id=table)):
            return metrics_in(path, table)
    raise AssertionError(f"{path}: which metric is {ast.unparse(argument)}?")


def metrics_in(path: Path, table: str) -> set[str]:
    """The metrics in a dictionary that a module holds under that name."""
    (found,) = (
        node.value
        for node in parse(path).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table
    )
    assert isinstance(found, ast.Dict)
    return {name for value in found.values for name in names_of(value, path)}


@cache
def written_by(service: str) -> frozenset[str]:
    """By a function, in its own name; or by whoever names another service."""
    app = ROOT / "functions" / service / "app.py"
    own = [w for path in (modules_of(app) if app.exists() else ()) for w in written_in(path)]
    shared = [w for path in BILLING.rglob("*.py") for w in written_in(path)]
    if service == "build":  # functions count these themselves, too
        apps = [modules_of(ROOT / "functions" / name / "app.py") for name in FUNCTIONS]
        shared += [w for modules in apps for path in modules for w in written_in(path)]
    calls = [w for w in own if w.service is None] + [w for w in shared if w.service == service]
    return frozenset(name for call in calls for name in call.names)


# --- what the templates ask for ---------------------------------------------------------------


def alarms() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in (TEMPLATE, ROOT / "database.yaml"):
        yield from of_type(load(path)["Resources"], "AWS::CloudWatch::Alarm").items()


ALARMS = dict(alarms())


def metrics_of(alarm: Mapping[str, Any]) -> list[tuple[object, str, list[dict[str, Any]]]]:
    """Namespace, name and dimensions of every metric an alarm looks at."""
    if "MetricName" in alarm:
        return [(alarm["Namespace"], alarm["MetricName"], alarm["Dimensions"])]
    metrics = [with_pages(m) for m in alarm["Metrics"]]
    stats = [m["MetricStat"]["Metric"] for m in metrics if "MetricStat" in m]
    return [(m["Namespace"], m["MetricName"], m["Dimensions"]) for m in stats]


def with_pages(part: Any) -> Any:
    """A part of the template as it is in a stack with pages, the operators' too, and a bus."""
    conditions = ("HasPages", "HasOps", "MakesEventBus")
    if isinstance(part, dict) and part.get("Fn::If", [None])[0] in conditions:
        return part["Fn::If"][1]
    return part


def is_written(namespace: object, name: str, dimensions: Mapping[str, object]) -> bool:
    if namespace in (NAMESPACE, NAMESPACE["Fn::Sub"]):
        if set(dimensions) == {"build"}:
            return name in written_by("build")
        return set(dimensions) == {"service"} and name in written_by(str(dimensions["service"]))
    return name in AWS_METRICS.get(str(namespace), set())


def dashboard() -> dict[str, Any]:
    """The dashboard of a stack with pages."""
    body: dict[str, Any] = json.loads(dashboard_text(with_pages))
    return body


def dashboard_text(read: Callable[[Any], Any]) -> str:
    """The dashboard's text; `read` decides what its conditional lines are."""
    properties = load(TEMPLATE)["Resources"]["Dashboard"]["Properties"]
    text, lines = properties["DashboardBody"]["Fn::Sub"]
    for name, line in lines.items():
        found = read(line)
        text = text.replace(f"${{{name}}}", found["Fn::Sub"] if found else "")
    return str(text)


def charted() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Every metric of the dashboard, with CloudWatch's abbreviations ('.' and '...') spelt out."""
    for widget in dashboard()["widgets"]:
        before: list[Any] = []
        for line in widget["properties"].get("metrics", []):
            given = [part for part in line if not isinstance(part, dict)]
            if given == ["..."]:
                given = before
            given = [b if g == "." else g for g, b in zip(given, before or given, strict=True)]
            before = given
            yield given[0], given[1], dict(zip(given[2::2], given[3::2], strict=True))


@pytest.fixture(scope="module")
def runbook() -> dict[str, str]:
    return sections(RUNBOOK)


@pytest.mark.parametrize("name", ALARMS)
class TestAlarms:
    def test_it_tells_somebody(self, name: str) -> None:
        """When it starts, and when it is over."""
        alarm = ALARMS[name]
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopic"}]

    def test_it_says_what_is_wrong_and_where_to_read_on(
        self, name: str, runbook: dict[str, str]
    ) -> None:
        """The place exists, and answers the three questions."""
        says = ALARMS[name]["AlarmDescription"]["Fn::Sub"]
        match = re.fullmatch(r"[A-Z].+\. \$\{RunbookUrl\}#([a-z0-9-]+)", says)
        assert match, says
        section = runbook[match[1]]
        for question in ("**Means.**", "**Look.**", "**Do.**"):
            assert question in section, (name, question)

    def test_somebody_writes_what_it_looks_at(self, name: str) -> None:
        """Under the very name and service; an alarm on anything else never rings."""
        metrics = list(metrics_of(ALARMS[name]))
        assert metrics
        for namespace, metric, dimensions in metrics:
            told = {d["Name"]: d["Value"] for d in dimensions}
            assert is_written(namespace, metric, told), (metric, told)

    def test_silence_has_a_meaning(self, name: str) -> None:
        """Said for each, since CloudWatch's own default is neither good nor bad."""
        expected = {
            "DeliverySilentAlarm": "breaching",
            "ReconcileSilentAlarm": "breaching",
            "MailSilentAlarm": "breaching",
            "EventsSilentAlarm": "breaching",
            "DatabaseCapacityAlarm": "missing",
        } | dict.fromkeys(KEEP_THEIR_STATE, "ignore")
        assert ALARMS[name]["TreatMissingData"] == expected.get(name, "notBreaching")


def watched(metric: str) -> dict[str, str]:
    """The functions about which an alarm rings for a metric of Lambda's, with that alarm.

    Those of a canary are left out, because they exist for a deployment only.
    """
    resources = load(TEMPLATE)["Resources"]
    return {
        dimension["Value"]["Ref"]: name
        for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items()
        if "Condition" not in resources[name]
        for _, looked_at, dimensions in metrics_of(alarm)
        for dimension in dimensions
        if looked_at == metric and dimension["Name"] == "FunctionName"
    }


def running() -> set[str]:
    """The functions that run when nobody deploys: they answer requests, or a schedule runs them."""
    functions = of_type(load(TEMPLATE)["Resources"], "AWS::Serverless::Function")
    return {n for n, function in functions.items() if function.get("Events")}


class TestEveryFunction:
    """The template names each in each alarm, because CloudWatch has no pattern for names."""

    @pytest.mark.parametrize("metric", ["Errors", "Throttles"])
    def test_an_alarm_rings_for_it(self, metric: str) -> None:
        assert running() - watched(metric).keys() == set()

    @pytest.mark.parametrize("metric", ["Errors", "Throttles", "Duration", "ConcurrentExecutions"])
    def test_the_dashboard_shows_it(self, metric: str) -> None:
        shown = {
            str(dimensions["FunctionName"]).strip("${}")
            for namespace, name, dimensions in charted()
            if (namespace, name) == ("AWS/Lambda", metric)
        }
        assert running() - shown == set()

    def test_its_log_group_and_its_role_are_its_own(self) -> None:
        functions = of_type(load(TEMPLATE)["Resources"], "AWS::Serverless::Function")
        assert functions
        for name, function in functions.items():
            own = name.removesuffix("Function")
            assert function["Role"] == {"Fn::GetAtt": [f"{own}Role", "Arn"]}
            assert function["LoggingConfig"]["LogGroup"] == {"Ref": f"{own}Logs"}


def test_an_alarm_looks_at_ten_metrics_at_most() -> None:
    """CloudWatch refuses more (docs.aws.amazon.com, "Limits that apply to alarms based on metric
    math expressions"), and no emulator tells."""
    assert {name for name, alarm in ALARMS.items() if len(metrics_of(alarm)) > 10} == set()


def test_an_event_that_is_given_up_rings() -> None:
    """The first one, as long as the endpoint does not have it."""
    alarm = ALARMS["EventsFailedAlarm"]
    assert (alarm["MetricName"], alarm["Statistic"]) == ("EventsFailed", "Maximum")
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanThreshold", 0)
    assert alarm["EvaluationPeriods"] == 1


class TestLittleTraffic:
    """An alarm that only rings in a busy stack leaves a quiet one unwatched."""

    def test_no_percentile_waits_for_samples(self) -> None:
        """With `ignore`, p99 is not looked at below 1,000 samples a period."""
        for name, alarm in ALARMS.items():
            if "ExtendedStatistic" in alarm:
                assert alarm["EvaluateLowSampleCountPercentile"] == "evaluate", name

    def test_the_webhook_is_timed_with_its_start(self) -> None:
        """Duration leaves out starting and restoring, for which Commet waits as well."""
        alarm = ALARMS["WebhookLatencyAlarm"]
        assert (alarm["MetricName"], alarm["Statistic"]) == ("UrlRequestLatency", "Maximum")

    @pytest.mark.parametrize("name", ["ServerErrorsAlarm", "WebhookErrorsAlarm"])
    def test_three_failures_in_a_quarter_of_an_hour_ring(self, name: str) -> None:
        """Whatever went well beside them."""
        alarm = ALARMS[name]
        assert alarm["Statistic"] == "Sum"
        assert alarm["Period"] == 900
        assert alarm["EvaluationPeriods"] == 1
        assert alarm["Threshold"] == 2

    def test_one_user_whom_commet_does_not_answer_for_rings(self) -> None:
        """The schedule asks about such a user every ten minutes: in every other period."""
        alarm = ALARMS["RefreshFailuresAlarm"]
        asked = alarm["Period"] * alarm["EvaluationPeriods"] // 600
        assert alarm["DatapointsToAlarm"] <= asked

    def test_silence_is_listened_for_once_there_is_a_schedule(self) -> None:
        """Made before, the alarm would ring in every new stack."""
        silent = {n: a for n, a in ALARMS.items() if a["TreatMissingData"] == "breaching"}
        resources, translated = load(TEMPLATE)["Resources"], translate(load(TEMPLATE))
        assert silent
        for name, alarm in silent.items():
            (watched,) = (each["Value"]["Ref"] for each in alarm["Dimensions"])
            assert resources[name]["DependsOn"] == f"{watched}Schedule"
            assert translated[f"{watched}Schedule"]["Type"] == "AWS::Scheduler::Schedule"
        scheduled = [each for each in translated.values() if each["Type"].endswith("::Schedule")]
        assert len(silent) == len(scheduled)


class TestMetrics:
    def test_each_is_written_somewhere(self) -> None:
        """A name that nothing writes would be an empty line on a dashboard."""
        services = [*FUNCTIONS, "accounts", "api", "build", "database", "payments"]
        assert {m.value for m in Metric} == {n for s in services for n in written_by(s)}

    def test_a_metric_nobody_writes_is_found_out(self) -> None:
        """These tests can fail."""
        assert is_written(NAMESPACE, "InboxDead", {"service": "reconcile"})
        assert is_written(NAMESPACE, "DeliveriesSent", {"service": "deliver_usage"})
        assert not is_written(NAMESPACE, "InboxDead", {"service": "portal"})
        assert not is_written(NAMESPACE, "InboxBuried", {"service": "reconcile"})
        assert not is_written(NAMESPACE, "DatabaseUnavailable", {"service": "webhook"})
        assert not is_written(NAMESPACE, "ServerErrors", {"service": "database"})
        assert not is_written("AWS/Lambda", "Mistakes", {})

    def test_a_word_of_the_code_is_no_metric(self) -> None:
        """Only what is handed to a call that writes one."""
        assert "WebhookIgnored" in written_by("webhook")
        for word in ("Applied", "applied", "Count", "BadSignature", "SignedIn"):
            assert word not in written_by("webhook"), word
        assert written_by("database") == {"DatabaseUnavailable"}
        assert written_by("api") == {
            "ServerErrors",
            "TokensRefused",
            "IdentityProviderFailed",
        }

    def test_two_stacks_in_one_account_do_not_add_up(self) -> None:
        """The functions write where the alarms look: into a namespace with the stack's name."""
        template = load(TEMPLATE)
        variables = template["Globals"]["Function"]["Environment"]["Variables"]
        assert variables["POWERTOOLS_METRICS_NAMESPACE"] == NAMESPACE

    def test_each_service_is_a_function(self) -> None:
        """A service is what a function is told to call itself."""
        functions = of_type(load(TEMPLATE)["Resources"], "AWS::Serverless::Function")
        assert functions
        for function in functions.values():
            service = function["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
            assert service == called(function)


class TestDashboard:
    def test_somebody_writes_all_it_shows(self) -> None:
        shown = list(charted())
        assert len(shown) > 50
        assert [one for one in shown if not is_written(*one)] == []

    def test_without_pages_it_names_nothing_of_theirs(self) -> None:
        """CloudFormation refuses the name of a resource that is not made."""
        without = dashboard_text(lambda line: line["Fn::If"][2])
        assert json.loads(without)["widgets"]
        assert "Pages" not in without
        assert "Ops" not in without
        assert "EventsNotLogged" not in without
        assert "${PagesFunction}" in dashboard_text(with_pages)

    def test_what_it_names_exists(self) -> None:
        """A resource that is renamed would leave a hole."""
        template = load(TEMPLATE)
        text = dashboard_text(with_pages)
        named = {m.split(".")[0] for m in re.findall(r"\$\{(\w[\w.]*)\}", text)}
        assert named - template["Resources"].keys() == set()

    def test_every_alarm_is_on_it(self) -> None:
        """At the top."""
        first = dashboard()["widgets"][0]
        assert first["type"] == "alarm"
        own = {
            name
            for name, resource in load(TEMPLATE)["Resources"].items()
            # Those of a canary exist for a deployment only.
            if resource["Type"] == "AWS::CloudWatch::Alarm"
            and resource.get("Condition") != "IsCanary"
        }
        assert set(first["properties"]["alarms"]) == {f"${{{name}.Arn}}" for name in own}

    def test_business_is_above_technique(self) -> None:
        headings = {
            widget["properties"]["markdown"]: widget["y"]
            for widget in dashboard()["widgets"]
            if widget["type"] == "text"
        }
        assert headings["## Business"] < headings["## Technical"]

    def test_widgets_fit_the_grid(self) -> None:
        """24 columns, nothing on top of another."""
        taken: set[tuple[int, int]] = set()
        widgets = dashboard()["widgets"]
        assert widgets
        for widget in widgets:
            cells = {
                (widget["x"] + x, widget["y"] + y)
                for x in range(widget["width"])
                for y in range(widget["height"])
            }
            assert max(x for x, _ in cells) < 24
            assert not cells & taken
            taken |= cells


class TestTopic:
    def test_it_is_encrypted_with_a_key_that_cloudwatch_may_use(self) -> None:
        """With SNS's own key alarms would fail silently: CloudWatch may not use that."""
        for path, key in ((TEMPLATE, "AlarmKey"), (ROOT / "database.yaml", "Key")):
            resources = load(path)["Resources"]
            policy = resources[key]["Properties"]["KeyPolicy"]["Statement"]
            (granted,) = (s for s in policy if "cloudwatch.amazonaws.com" in json.dumps(s))
            assert granted["Effect"] == "Allow"
            assert granted["Action"] == ["kms:Decrypt", "kms:GenerateDataKey*"]
            assert granted["Resource"] == "*"  # this key: a key's policy speaks of no other
            assert "Condition" not in granted
            topic = resources["AlarmTopic"]["Properties"]["KmsMasterKeyId"]
            assert key in json.dumps(topic)

    @pytest.mark.parametrize(
        ("path", "services"),
        [
            (TEMPLATE, "cloudwatch.amazonaws.com"),
            (ROOT / "database.yaml", ["cloudwatch.amazonaws.com", "events.rds.amazonaws.com"]),
        ],
    )
    def test_cloudwatch_may_publish_to_it_for_this_account(
        self, path: Path, services: str | list[str]
    ) -> None:
        """An alarm that cannot publish to its topic fails silently."""
        policy = load(path)["Resources"]["AlarmTopicPolicy"]["Properties"]
        assert policy["Topics"] == [{"Ref": "AlarmTopic"}]
        (granted,) = policy["PolicyDocument"]["Statement"]
        assert granted == {
            "Effect": "Allow",
            "Principal": {"Service": services},
            "Action": "sns:Publish",
            "Resource": {"Ref": "AlarmTopic"},
            "Condition": {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}},
        }
