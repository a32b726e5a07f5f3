"""What the template promises, read from the template and from what SAM makes of it."""

import json
import re
import shutil
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from deploy.build_id import PARTS, build_id
from deploy.refusals import regions_with_ca
from tests.unit.cloudformation import ROOT, TEMPLATE, Resources, load, of_type, translate
from tests.unit.test_template_alarms import metrics_of, with_pages

NOTHING = {"Ref": "AWS::NoValue"}


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return load(TEMPLATE)


@pytest.fixture(scope="module")
def functions(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return of_type(template["Resources"], "AWS::Serverless::Function")


@pytest.fixture(scope="module")
def translated(template: dict[str, Any]) -> Resources:
    """CloudFormation as SAM deploys it."""
    return translate(template)


class TestFunctions:
    def test_there_is_one_per_folder(self, functions: dict[str, dict[str, Any]]) -> None:
        """No folder without a function and no function without a folder."""
        folders = {f"functions/{p.parent.name}" for p in ROOT.glob("functions/*/app.py")}
        assert {f["CodeUri"] for f in functions.values()} == folders
        assert "functions/track_usage" in folders

    def test_a_new_build_makes_new_versions(self, functions: dict[str, dict[str, Any]]) -> None:
        """All logic is in the layer, and SAM looks at the function's own code only."""
        assert functions
        for name, function in functions.items():
            assert function["AutoPublishCodeSha256"] == {"Ref": "BuildId"}, name

    def test_none_answers_before_the_tables_are_ready(
        self, template: dict[str, Any], functions: dict[str, dict[str, Any]]
    ) -> None:
        others = functions.keys() - {"MigrateFunction"}
        assert others
        for name in others:
            assert template["Resources"][name]["DependsOn"] == "Migrations", name


def answers_http(function: dict[str, Any]) -> bool:
    return any(event["Type"] == "HttpApi" for event in function.get("Events", {}).values())


def answering(template: dict[str, Any]) -> set[str]:
    """The functions that answer HTTP."""
    functions = of_type(template["Resources"], "AWS::Serverless::Function")
    return {name for name, function in functions.items() if answers_http(function)}


def canary_alarms(template: dict[str, Any]) -> set[str]:
    """The alarms that exist for a deployment with a canary only."""
    resources = template["Resources"]
    alarms = of_type(resources, "AWS::CloudWatch::Alarm")
    return {name for name in alarms if resources[name].get("Condition") == "IsCanary"}


def waits_for(resources: Resources, name: str) -> set[str]:
    """The resources that must be there before this one, whatever conditions say."""
    explicit = resources[name].get("DependsOn", [])
    named = {explicit} if isinstance(explicit, str) else set(explicit)
    for part in ("Properties", "UpdatePolicy"):
        named |= set(mentioned(resources[name].get(part)))
    return named & resources.keys()


def mentioned(value: object) -> Iterator[str]:
    """The names that a value takes something from."""
    if isinstance(value, list):
        for each in value:
            yield from mentioned(each)
    elif isinstance(value, dict):
        for kind, what in value.items():
            if kind == "Ref":
                yield what
            elif kind == "Fn::GetAtt":
                yield what[0]
            elif kind == "Fn::Sub":
                text = what if isinstance(what, str) else what[0]
                yield from re.findall(r"\$\{(\w+)", text)
                yield from mentioned(what[1:] if isinstance(what, list) else None)
            else:
                yield from mentioned(what)


class TestCompute:
    def test_one_parameter_says_for_which_processors(self, template: dict[str, Any]) -> None:
        """Functions, layer and the build of the layer: one that differs would not start."""
        architecture = {"Ref": "Architecture"}
        layer = template["Resources"]["CommonLayer"]
        assert template["Globals"]["Function"]["Architectures"] == [architecture]
        assert layer["Properties"]["CompatibleArchitectures"] == [architecture]
        assert layer["Metadata"]["BuildArchitecture"] == architecture

    def test_who_answers_http_starts_from_a_snapshot_and_moves_gently(
        self, template: dict[str, Any], functions: dict[str, dict[str, Any]]
    ) -> None:
        """The others are waited for by nobody, and CloudFormation calls what it has just put up."""
        shared = template["Globals"]["Function"]
        assert shared["SnapStart"] == {"ApplyOn": {"Ref": "SnapStart"}}
        assert shared["DeploymentPreference"]["Type"] == {"Ref": "Canary"}
        assert functions
        for name, function in functions.items():
            own = (function.get("SnapStart"), function.get("DeploymentPreference"))
            if not answers_http(function):
                assert own == ({"ApplyOn": "None"}, {"Enabled": False}), name
            elif name != "TrackUsageFunction":
                assert own == (None, None), name

    def test_warm_environments_do_without_a_snapshot(
        self, template: dict[str, Any], functions: dict[str, dict[str, Any]]
    ) -> None:
        """Lambda takes provisioned concurrency or SnapStart, not both."""
        usage = functions["TrackUsageFunction"]
        assert usage["ProvisionedConcurrencyConfig"]["Fn::If"][0] == "HasProvisionedConcurrency"
        assert usage["SnapStart"]["ApplyOn"]["Fn::If"] == [
            "UsageStartsFromSnapshot",
            "PublishedVersions",
            "None",
        ]
        condition = template["Conditions"]["UsageStartsFromSnapshot"]["Fn::And"]
        assert {"Fn::Not": [{"Condition": "HasProvisionedConcurrency"}]} in condition

    def test_nothing_is_reserved_unless_asked_for(
        self, functions: dict[str, dict[str, Any]]
    ) -> None:
        """A new account has no concurrency to reserve: the deployment would fail."""
        assert functions
        for name, function in functions.items():
            reserved = function.get("ReservedConcurrentExecutions")
            assert (reserved is not None) == answers_http(function), name
            assert reserved is None or reserved["Fn::If"][2] == NOTHING, name

    def test_a_shift_goes_back_when_errors_rise(
        self, template: dict[str, Any], translated: Resources
    ) -> None:
        """And watches nothing where nothing is shifted: a ringing alarm would stop its own cure."""
        alarms = template["Globals"]["Function"]["DeploymentPreference"]["Alarms"]["Fn::If"]
        assert alarms[0] == "IsCanary"
        assert alarms[2] == [NOTHING]
        watched = {alarm["Ref"] for alarm in alarms[1]}
        assert watched >= {"NewBuildErrorsAlarm", "NewVersionCrashesAlarm"}
        assert watched == canary_alarms(template)
        assert watched <= translated.keys()
        assert len(watched) <= 10  # as many as CodeDeploy takes
        groups = of_type(translated, "AWS::CodeDeploy::DeploymentGroup")
        assert len(groups) == len(answering(template))
        for group in groups.values():
            rolled_back = group["AutoRollbackConfiguration"]
            assert "DEPLOYMENT_STOP_ON_ALARM" in rolled_back["Events"]

    def test_a_shift_watches_the_new_version_and_only_that(self, template: dict[str, Any]) -> None:
        """Errors of the version before would take back the release that ends them."""
        resources = translate(template, {"Canary": "Linear10PercentEvery1Minute"})
        build = resources["NewBuildErrorsAlarm"]
        assert build["Properties"]["Dimensions"] == [{"Name": "build", "Value": {"Ref": "BuildId"}}]
        assert build["Properties"]["Threshold"] == 0
        told = template["Globals"]["Function"]["Environment"]["Variables"]["WATCHED_BUILD"]
        assert told == {"Fn::If": ["IsCanary", {"Ref": "BuildId"}, ""]}
        shifted = {
            group["Ref"].removesuffix("DeploymentGroup")
            for alias in resources.values()
            if "UpdatePolicy" in alias
            for group in [
                alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["DeploymentGroupName"]
            ]
        }
        assert len(shifted) == len(answering(template))
        seen = set()
        watched = [
            dimensions
            for name in canary_alarms(template) - {"NewBuildErrorsAlarm"}
            for _, _, dimensions in metrics_of(resources[name]["Properties"])
        ]
        assert watched
        for dimensions in watched:
            told = {d["Name"]: d["Value"] for d in dimensions}
            function = told["FunctionName"]["Ref"]
            version = f"{function}Version0123456789"
            assert told["ExecutedVersion"] == {"Fn::GetAtt": [version, "Version"]}
            assert version in resources
            assert told["Resource"] == {"Fn::Sub": f"${{{function}}}:live"}
            seen.add(function)
        assert seen == shifted

    def test_a_shift_that_is_none_costs_nothing(self, template: dict[str, Any]) -> None:
        alarms = of_type(template["Resources"], "AWS::CloudWatch::Alarm")
        watched = template["Globals"]["Function"]["DeploymentPreference"]["Alarms"]["Fn::If"][1]
        assert {alarm["Ref"] for alarm in watched} <= alarms.keys()
        for alarm in watched:
            assert template["Resources"][alarm["Ref"]]["Condition"] == "IsCanary"

    def test_no_function_is_reserved_to_death(self, template: dict[str, Any]) -> None:
        """With 0 reserved it never runs; 0 provisioned is off."""
        for name in ("WebhookConcurrency", "UsageConcurrency", "OtherConcurrency"):
            pattern = template["Parameters"][name]["AllowedPattern"]
            for value, taken in (
                ("", True),
                ("1", True),
                ("40", True),
                ("0", False),
                ("00", False),
            ):
                assert bool(re.fullmatch(pattern, value)) is taken, (name, value)
        assert template["Parameters"]["UsageProvisionedConcurrency"]["MinValue"] == 0

    def test_nothing_waits_for_itself(self, template: dict[str, Any]) -> None:
        """CloudFormation refuses circles, through an update policy too, where linters look not."""
        resources = translate(template, {"Canary": "Linear10PercentEvery1Minute"})
        order = TopologicalSorter({name: waits_for(resources, name) for name in resources})
        assert set(order.static_order()) == resources.keys()

    def test_every_offered_shift_is_one_of_codedeploys(self, template: dict[str, Any]) -> None:
        """SAM makes its name of the parameter's value."""
        offered = template["Parameters"]["Canary"]["AllowedValues"]
        assert offered
        for canary in offered:
            groups = of_type(
                translate(template, {"Canary": canary}), "AWS::CodeDeploy::DeploymentGroup"
            )
            (name,) = {json.dumps(g["DeploymentConfigName"]["Fn::Sub"]) for g in groups.values()}
            assert canary in name

    def test_all_answer_before_the_api_gives_up(
        self, template: dict[str, Any], functions: dict[str, dict[str, Any]]
    ) -> None:
        """API Gateway waits 30 seconds, Commet 10, the next run of a schedule comes after 60."""
        assert functions
        for name, function in functions.items():
            timeout = function.get("Timeout", template["Globals"]["Function"]["Timeout"])
            if name == "WebhookFunction":
                assert timeout < 10
            elif answers_http(function):
                assert timeout < 30, name
            elif "Events" in function:
                assert timeout < 60, name


class TestSchedules:
    def test_nothing_that_fails_is_dropped(self, translated: Resources) -> None:
        """What cannot be started, and what fails once started, leaves a message in one queue."""
        queue = {"Fn::GetAtt": ["FailureQueue", "Arn"]}
        schedules = of_type(translated, "AWS::Scheduler::Schedule")
        invocations = of_type(translated, "AWS::Lambda::EventInvokeConfig")
        assert len(schedules) == len(invocations) == 4
        for name, schedule in schedules.items():
            target = schedule["Target"]
            assert target["DeadLetterConfig"] == {"Arn": queue}, name
            assert target["RetryPolicy"] == {
                "MaximumRetryAttempts": 2,
                "MaximumEventAgeInSeconds": 300,
            }
        called = {s["Target"]["Arn"]["Ref"].removesuffix("Aliaslive") for s in schedules.values()}
        assert {i["FunctionName"]["Ref"] for i in invocations.values()} == called
        for name, invocation in invocations.items():
            assert invocation["DestinationConfig"] == {"OnFailure": {"Destination": queue}}, name
            assert invocation["Qualifier"] == "live"
            # The next minute's run does the work of one that failed. What SES tells comes once.
            retries, age = (2, 3600) if name.startswith("SendMail") else (0, 300)
            assert invocation["MaximumRetryAttempts"] == retries, name
            assert invocation["MaximumEventAgeInSeconds"] == age, name

    def test_there_is_no_other_kind_of_source(self, functions: dict[str, dict[str, Any]]) -> None:
        """HTTP waits for its answer; whatever else is added must say where its failures go."""
        kinds = {e["Type"] for f in functions.values() for e in f.get("Events", {}).values()}
        assert kinds == {"HttpApi", "ScheduleV2"}

    def test_the_queue_keeps_them_safe_and_long(self, translated: Resources) -> None:
        """Encrypted, over TLS alone, for the 14 days SQS allows."""
        queue = translated["FailureQueue"]["Properties"]
        assert queue == {"MessageRetentionPeriod": 14 * 86400, "SqsManagedSseEnabled": True}
        policy = translated["FailureQueuePolicy"]["Properties"]
        assert policy["Queues"] == [{"Ref": "FailureQueue"}]
        from_the_rule = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": {"Fn::GetAtt": ["FailureQueue", "Arn"]},
            "Condition": {
                "ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": ["UnwelcomeMails", "Arn"]}}
            },
        }
        assert policy["PolicyDocument"]["Statement"] == [
            {"Fn::If": ["HasEmail", from_the_rule, {"Ref": "AWS::NoValue"}]},
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "sqs:*",
                "Resource": {"Fn::GetAtt": ["FailureQueue", "Arn"]},
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ]


class TestEventBus:
    def test_a_rule_may_leave_what_it_could_not_deliver(self, template: dict[str, Any]) -> None:
        """Each queue that a rule names lets EventBridge in, for this rule. Nothing else does."""
        resources = template["Resources"]
        rules = of_type(resources, "AWS::Events::Rule")
        assert len(rules) > 1
        for name, rule in rules.items():
            assert rule["Targets"]
            for target in rule["Targets"]:
                queue = target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0]
                policy = json.dumps(resources[f"{queue}Policy"])
                assert '"Service": "events.amazonaws.com"' in policy
                assert f'{{"aws:SourceArn": {{"Fn::GetAtt": ["{name}", "Arn"]}}}}' in policy

    def test_a_rule_names_its_log_group_without_a_star(self, template: dict[str, Any]) -> None:
        """EventBridge delivers nothing to the attribute Arn of a log group, which ends in `:*`."""
        resources = template["Resources"]
        (target,) = resources["OutgoingEventRule"]["Properties"]["Targets"]
        where = "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}"
        assert target["Arn"] == {"Fn::Sub": f"{where}:log-group:${{OutgoingEventLogs}}"}
        # Of the policy, the star is a part: it lets EventBridge write to the group's streams.
        policy = resources["OutgoingEventLogsPolicy"]["Properties"]["PolicyDocument"]["Fn::Sub"]
        assert json.loads(policy)["Statement"][0]["Resource"] == "${OutgoingEventLogs.Arn}"

    def test_all_of_it_is_there_only_where_the_stack_makes_a_bus(
        self, template: dict[str, Any]
    ) -> None:
        parts = {n: r for n, r in template["Resources"].items() if n.startswith("OutgoingEvent")}
        assert len(parts) == 7
        assert {part["Condition"] for part in parts.values()} == {"MakesEventBus"}

    def test_a_bus_is_named_by_its_arn(self, template: dict[str, Any]) -> None:
        """The function's right to put events is on that ARN."""
        pattern = template["Parameters"]["EventBus"]["AllowedPattern"]
        arns = [
            "arn:aws:events:eu-central-1:123456789012:event-bus/acme",
            "arn:aws-cn:events:cn-north-1:123456789012:event-bus/acme/orders",
        ]
        for value in ("", "own", *arns):
            assert re.fullmatch(pattern, value)
        for value in ("acme", "arn:aws:sns:eu-central-1:123456789012:acme"):
            assert not re.fullmatch(pattern, value)


class TestCertificates:
    def test_a_region_without_a_ca_is_refused(self, template: dict[str, Any]) -> None:
        """No function could verify the certificate of RDS there."""
        rule = template["Rules"]["CertificateAuthority"]
        (assertion,) = rule["Assertions"]
        allowed, region = assertion["Assert"]["Fn::Contains"]
        assert region == {"Ref": "AWS::Region"}
        assert set(allowed) == regions_with_ca(TEMPLATE)
        assert "il-central-1" not in allowed
        assert not [name for name in allowed if name.startswith(("us-gov", "cn-"))]


class TestEdge:
    def test_a_warning_does_not_stop_a_deployment(self, translated: Resources) -> None:
        """Whether AWS's import warns of this API was never seen."""
        assert not translated["Api"]["Properties"].get("FailOnWarnings")

    def test_each_throttle_is_of_a_route(self, translated: Resources) -> None:
        """API Gateway refuses the whole deployment for one that is not."""
        stage = translated["ApiApiGatewayDefaultStage"]["Properties"]
        paths = translated["Api"]["Properties"]["Body"]["paths"]
        routes = {
            f"{'ANY' if 'any' in method else method.upper()} {path}": operations
            for path, operations in paths.items()
            for method in with_pages(operations)
        }
        settings = stage["RouteSettings"]
        assert settings.keys() <= routes.keys()
        # One that is there with pages only is of a route that is there with pages only.
        conditional = {route for route, limits in settings.items() if "Fn::If" in limits}
        assert conditional == {route for route in settings if "Fn::If" in routes[route]}
        assert all(
            set(with_pages(limits)) == {"ThrottlingRateLimit", "ThrottlingBurstLimit"}
            for limits in [stage["DefaultRouteSettings"], *settings.values()]
        )

    def test_whoever_takes_usage_or_hashes_passwords_has_a_limit_of_its_own(
        self, translated: Resources
    ) -> None:
        """The one for being many, the other for being expensive."""
        limits = translated["ApiApiGatewayDefaultStage"]["Properties"]["RouteSettings"]
        paths = translated["Api"]["Properties"]["Body"]["paths"]
        rates = {
            f"POST {path}": "UsageRequestsPerSecond"
            for path in paths
            if path.startswith("/usage") and "post" in paths[path] and "corrections" not in path
        }
        rates |= dict.fromkeys(
            [
                *("POST /signup", "POST /login", "PATCH /account", "POST /email/verify"),
                *("POST /password", "POST /password/reset", "POST /app/{proxy+}"),
            ],
            "SignInRequestsPerSecond",
        )
        assert len(rates) > 2
        for route, parameter in rates.items():
            own = with_pages(limits[route])
            assert set(own) == {"ThrottlingRateLimit", "ThrottlingBurstLimit"}
            assert all(limit == {"Ref": parameter} for limit in own.values()), route

    def test_the_access_log_tells_of_requests_and_not_of_people(
        self, translated: Resources
    ) -> None:
        """No address, no path (it holds ids), no query (it may hold a token), no header."""
        settings = translated["ApiApiGatewayDefaultStage"]["Properties"]["AccessLogSettings"]
        fields = json.loads(settings["Format"])
        assert fields["request_id"] == "$context.requestId"
        assert set(fields.values()) == {
            f"$context.{name}"
            for name in (
                "requestTime", "requestId", "routeKey", "status", "responseLatency",
                "integrationLatency", "integrationStatus", "error.message",
                "integrationErrorMessage", "responseLength", "protocol",
            )
        }  # fmt: skip

    def test_origins_are_a_parameter_and_never_send_cookies(self, translated: Resources) -> None:
        """A page of another origin has to hold a token itself."""
        cors = translated["Api"]["Properties"]["Body"]["x-amazon-apigateway-cors"]
        assert cors["allowOrigins"] == ["https://a.example"]
        assert not cors.get("allowCredentials")

    def test_the_database_is_never_reached_in_the_clear(self, template: dict[str, Any]) -> None:
        """Whatever is chosen; unless something else is, its certificate is verified too."""
        offered = template["Parameters"]["DatabaseSslMode"]
        assert not {"disable", "allow", "prefer"} & set(offered["AllowedValues"])
        assert offered["Default"] == "verify-full"

    def test_a_domain_is_made_only_where_one_is_named(self, template: dict[str, Any]) -> None:
        conditions = {
            name: template["Resources"][name].get("Condition")
            for name in ("ApiDomain", "ApiMapping", "ApiRecord")
        }
        assert conditions == {
            "ApiDomain": "HasDomain",
            "ApiMapping": "HasDomain",
            "ApiRecord": "HasDomainRecord",
        }


class TestLogs:
    def test_each_function_has_its_own_and_none_is_kept_for_ever(
        self, translated: Resources
    ) -> None:
        """Lambda would make one itself, without an end."""
        groups = of_type(translated, "AWS::Logs::LogGroup")
        used = [
            f["LoggingConfig"]["LogGroup"]["Ref"]
            for f in of_type(translated, "AWS::Lambda::Function").values()
        ]
        assert sorted([*used, "AccessLogs", "OutgoingEventLogs"]) == sorted(groups)
        assert groups
        for name, group in groups.items():
            assert group["RetentionInDays"] == {"Ref": "LogRetentionDays"}, name

    def test_those_of_functions_outlive_the_stack_and_do_not_stand_in_the_way_of_the_next(
        self, translated: Resources
    ) -> None:
        """A fixed name would be taken when a stack of the same name is made again."""
        groups = {n: r for n, r in translated.items() if r["Type"] == "AWS::Logs::LogGroup"}
        assert groups
        for name, group in groups.items():
            of_function = name not in ("AccessLogs", "OutgoingEventLogs")
            kept = (group.get("DeletionPolicy"), group.get("UpdateReplacePolicy"))
            assert kept == (("Retain", "Retain") if of_function else (None, None)), name
            assert ("LogGroupName" in group["Properties"]) is not of_function, name

    def test_requests_are_traced(self, translated: Resources) -> None:
        functions = of_type(translated, "AWS::Lambda::Function")
        assert functions
        for name, function in functions.items():
            assert function["TracingConfig"] == {"Mode": "Active"}, name

    def test_metrics_cannot_be_filtered_out(self, template: dict[str, Any]) -> None:
        """Lambda counts a metric's line as INFO, and drops it where only more is wanted."""
        assert template["Parameters"]["LogLevel"]["AllowedValues"] == ["DEBUG", "INFO"]


class TestRoutes:
    def test_they_are_those_of_the_openapi_document(
        self, functions: dict[str, dict[str, Any]]
    ) -> None:
        """A route in the one is a route in the other. Pages are no part of the API."""
        events = [
            event["Properties"]
            for name, function in functions.items()
            if name not in ("PagesFunction", "OpsFunction")
            for event in function.get("Events", {}).values()
            if event["Type"] == "HttpApi" and "Path" in event["Properties"]
        ]
        served = {
            (e["Method"].replace("ANY", "POST"), e["Path"].replace("{id}", "{user_id}"))
            for e in events
        }
        document = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
        described = {
            (method.upper(), path)
            for path, operations in document["paths"].items()
            for method in operations
        }
        assert served == described

    def test_everything_else_is_answered_by_us(self, translated: Resources) -> None:
        """A $default route renders our own 404."""
        default = translated["Api"]["Properties"]["Body"]["paths"]["$default"]
        assert default["x-amazon-apigateway-any-method"]["isDefaultRoute"] is True


class TestPages:
    """They are made only where a stack has them."""

    ROUTES = (
        *("GET /", "GET /app", "GET /app/{proxy+}", "POST /app/{proxy+}", "GET /assets/{name}"),
        *("GET /verify-email", "GET /reset-password", "GET /sign-in", "GET /robots.txt"),
        "GET /{proxy+}",
    )

    def test_these_are_their_routes(self, functions: dict[str, dict[str, Any]]) -> None:
        events = [each["Properties"] for each in functions["PagesFunction"]["Events"].values()]
        assert sorted(f"{e['Method']} {e['Path']}" for e in events) == sorted(self.ROUTES)

    def test_operators_have_these(self, functions: dict[str, dict[str, Any]]) -> None:
        events = [each["Properties"] for each in functions["OpsFunction"]["Events"].values()]
        assert sorted(f"{e['Method']} {e['Path']}" for e in events) == [
            "GET /ops", "GET /ops/{proxy+}", "POST /ops/{proxy+}"
        ]  # fmt: skip

    def test_operators_have_a_page_where_somebody_is_named(self, template: dict[str, Any]) -> None:
        """By default nobody is."""
        assert template["Parameters"]["Operators"]["Default"] == ""
        assert template["Conditions"]["HasOps"] == {
            "Fn::And": [
                {"Condition": "HasPages"},
                {"Fn::Not": [{"Fn::Equals": [{"Ref": "Operators"}, ""]}]},
            ]
        }

    @pytest.mark.parametrize("listed", ["", "ana@a.example", "ana@a.example,bo@münchen.example"])
    def test_operators_are_a_list_of_addresses(self, template: dict[str, Any], listed: str) -> None:
        pattern = template["Parameters"]["Operators"]["AllowedPattern"]
        assert re.fullmatch(pattern, listed)
        assert not re.fullmatch(pattern, listed + ",")
        assert not re.fullmatch(pattern, "ana")

    def test_they_need_accounts_of_the_stacks_own(self, template: dict[str, Any]) -> None:
        """Whom an identity provider signs in has no session here."""
        assert template["Conditions"]["HasPages"] == {
            "Fn::And": [
                {"Fn::Equals": [{"Ref": "Pages"}, "true"]},
                {"Fn::Equals": [{"Ref": "OwnAccounts"}, "true"]},
            ]
        }

    @pytest.mark.parametrize("canary", ["AllAtOnce", "Canary10Percent5Minutes"])
    @pytest.mark.parametrize("part", ["Pages", "Ops"])
    def test_without_them_nothing_names_what_is_not_made(
        self, template: dict[str, Any], part: str, canary: str
    ) -> None:
        """CloudFormation would refuse the stack."""
        resources = translate(template, {"Canary": canary})
        theirs = {n for n, each in resources.items() if each.get("Condition") == f"Has{part}"}
        assert theirs == {name for name in resources if name.startswith(part)}
        assert f"{part}FunctionDeploymentGroup" in theirs
        others = resources.keys() - theirs
        assert others
        for name in others:
            named = set(mentioned(without(f"Has{part}", resources[name])))
            assert not named & theirs, (name, named & theirs)


def without(condition: str, value: Any) -> Any:
    """A part of the template as it is where the condition does not hold."""
    if isinstance(value, list):
        return [without(condition, each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("Fn::If", [None])[0] == condition:
        return without(condition, value["Fn::If"][2])
    return {name: without(condition, each) for name, each in value.items()}


def versions(template: dict[str, Any], build: str) -> set[str]:
    """The logical ids of the versions; CloudFormation publishes one for each that is new."""
    return set(of_type(translate(template, {"BuildId": build}), "AWS::Lambda::Version"))


class TestTranslated:
    def test_a_second_stack_can_stand_beside_it(self, translated: Resources) -> None:
        """No resource has a name of its own, which could be taken in the account."""
        named = ("Name", "FunctionName", "LayerName", "RoleName", "ScheduleName")
        owners = ("AWS::Scheduler::Schedule", "AWS::Lambda::Function", "AWS::IAM::Role")
        found = [
            (name, key)
            for name, resource in translated.items()
            if resource["Type"] in owners
            for key in named
            if key in resource["Properties"]
        ]
        assert found == []

    def test_every_function_is_called_through_its_alias(
        self, functions: dict[str, dict[str, Any]], translated: Resources
    ) -> None:
        """A deployment is complete before the first request reaches it."""
        aliases = of_type(translated, "AWS::Lambda::Alias").values()
        called = [alias["FunctionName"]["Ref"] for alias in aliases]
        assert sorted(called) == sorted(functions)

    @pytest.mark.parametrize(
        ("changed", "parameters"),
        [
            ("layers/common/billing/usage/accepting.py", []),
            ("functions/webhook/app.py", []),
            ("template.yaml", []),
            (None, ["PastDueHasAccess=false"]),
        ],
    )
    def test_any_change_is_a_new_version_of_every_function(
        self, template: dict[str, Any], tmp_path: Path, changed: str | None, parameters: list[str]
    ) -> None:
        """Layer, code or one parameter: what is deployed is what answers, everywhere."""
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, tmp_path / part)
            else:
                shutil.copy(ROOT / part, tmp_path / part)
        before = versions(template, build_id(tmp_path))
        if changed:
            with (tmp_path / changed).open("a") as file:
                file.write("# changed\n")
        after = versions(template, build_id(tmp_path, parameters))
        functions = of_type(template["Resources"], "AWS::Serverless::Function")
        assert len(before) == len(after) == len(functions)
        assert not before & after

    def test_another_build_id_is_another_version(
        self, functions: dict[str, dict[str, Any]], translated: Resources
    ) -> None:
        """The logical ids of versions end in the build id, so CloudFormation publishes new ones."""
        versions = {n for n, r in translated.items() if r["Type"] == "AWS::Lambda::Version"}
        assert versions == {f"{name}Version0123456789" for name in functions}

    def test_the_webhook_has_a_url_that_needs_no_aws_signature(self, translated: Resources) -> None:
        """Commet cannot sign for AWS; its own signature is checked by us."""
        url = translated["WebhookFunctionUrl"]["Properties"]
        assert url["AuthType"] == "NONE"
