"""What each function may do is what its code does, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cloudformation import ROOT, TEMPLATE, Resources, app_of, load, of_type, translate
from tests.unit.source import BILLING, built_for, modules_of

TEMPLATE_AS_WRITTEN = load(TEMPLATE)
RESOURCES = TEMPLATE_AS_WRITTEN["Resources"]
FUNCTIONS = of_type(RESOURCES, "AWS::Serverless::Function")
SHARED = TEMPLATE_AS_WRITTEN["Globals"]["Function"]["Environment"]["Variables"]

Statement = dict[str, Any]

THROUGH_SECRETS_MANAGER = {
    "StringEquals": {"kms:ViaService": {"Fn::Sub": "secretsmanager.${AWS::Region}.amazonaws.com"}}
}

KEYS = (("HasKmsKey", "KmsKeyArn"), ("HasSecretKmsKeys", "SecretKmsKeyArns"))


def statements(function: str) -> list[Statement]:
    """A function's own policy."""
    role = RESOURCES[FUNCTIONS[function]["Role"]["Fn::GetAtt"][0]]["Properties"]
    (policy,) = role["Policies"]
    found: list[Statement] = policy["PolicyDocument"]["Statement"]
    return found


def allowed(function: str, action: str) -> list[str]:
    """The resources on which a function may do something, as text."""
    return sorted(
        json.dumps(resource)
        for statement in statements(function)
        if action in as_list(statement.get("Action", []))
        for resource in as_list(statement["Resource"])
    )


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def told(function: str) -> dict[str, str]:
    """The variables that name secrets, and the secrets."""
    variables = SHARED | FUNCTIONS[function]["Environment"]["Variables"]
    named = {n: v for n, v in variables.items() if n.endswith("_SECRET_ARN") and v != ""}
    return {name: json.dumps(value) for name, value in named.items()}


def app(function: str) -> Path:
    return app_of(FUNCTIONS[function])


def own(function: str) -> str:
    return app(function).read_text(encoding="utf-8")


def reached(function: str) -> str:
    """The text of a function and of all it imports, but for the place where everything is built."""
    paths = modules_of(app(function)) - {BILLING / "wiring.py", BILLING / "config.py"}
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(paths))


def built(function: str) -> frozenset[str]:
    """What the function has `wiring` build."""
    return built_for(app(function))


def writes_a_secret(function: str) -> bool:
    return "webhook_vault" in built(function)


# By which words in its code a function is known to need a secret.
NEEDS: dict[str, Callable[[str], bool]] = {
    "DATABASE_SECRET_ARN": lambda f: "database" in built(f) or "database.secret_id" in own(f),
    "DATABASE_ACCOUNTS_SECRET_ARN": lambda f: "accounts_secret_id" in reached(f),
    "DATABASE_OWNER_SECRET_ARN": lambda f: "owner_secret_id" in reached(f),
    "COMMET_SECRET_ARN": lambda f: bool({"commet", "metered_commet"} & built(f)),
    "WEBHOOK_SECRET_ARN": lambda f: "webhook_verifier" in built(f) or writes_a_secret(f),
    "SERVICE_KEYS_SECRET_ARN": lambda f: (
        "_service(" in own(f) or "service_keys().listed(" in reached(f)
    ),
    "APP_SECRET_ARN": lambda f: (
        "app_secret_id" in reached(f) or bool({"attempts", "links"} & built(f))
    ),
    "PEOPLE_SECRET_ARN": lambda f: bool(
        {"links", "people", "signing_in", "endpoint_secret"} & built(f)
    ),
}


@pytest.fixture
def shared() -> list[Statement]:
    policy = RESOURCES["FunctionBasics"]["Properties"]["PolicyDocument"]
    found: list[Statement] = policy["Statement"]
    return found


@pytest.fixture(scope="module")
def translated() -> Resources:
    return translate(TEMPLATE_AS_WRITTEN)


@pytest.mark.parametrize("function", FUNCTIONS)
class TestFunction:
    def test_it_has_a_role_of_its_own(self, function: str) -> None:
        """What one may do, no other may because of it."""
        roles = [f["Role"]["Fn::GetAtt"][0] for f in FUNCTIONS.values()]
        assert roles.count(FUNCTIONS[function]["Role"]["Fn::GetAtt"][0]) == 1

    def test_its_code_needs_the_secrets_it_is_told_of(self, function: str) -> None:
        """Found out from the code: what it builds and asks for."""
        assert {name for name, needs in NEEDS.items() if needs(function)} == set(told(function))

    def test_it_may_read_them_and_no_other(self, function: str) -> None:
        assert allowed(function, "secretsmanager:GetSecretValue") == sorted(told(function).values())

    def test_only_who_keeps_the_webhooks_secret_may_write_one(self, function: str) -> None:
        kept = [told(function)["WEBHOOK_SECRET_ARN"]] if writes_a_secret(function) else []
        assert allowed(function, "secretsmanager:PutSecretValue") == kept

    def test_it_writes_its_own_log_and_can_make_none(self, function: str) -> None:
        """Not AWSLambdaBasicExecutionRole, which writes every log of the account."""
        logs = FUNCTIONS[function]["LoggingConfig"]["LogGroup"]["Ref"]
        arn = [json.dumps({"Fn::GetAtt": [logs, "Arn"]})]
        assert allowed(function, "logs:PutLogEvents") == arn
        assert allowed(function, "logs:CreateLogStream") == arn
        assert allowed(function, "logs:CreateLogGroup") == []

    def test_it_may_leave_a_failure_where_it_is_called_asynchronously(self, function: str) -> None:
        queue = [json.dumps({"Fn::GetAtt": ["FailureQueue", "Arn"]})]
        asynchronous = "EventInvokeConfig" in FUNCTIONS[function]
        assert allowed(function, "sqs:SendMessage") == (queue if asynchronous else [])

    def test_what_is_granted_is_allowed(self, function: str) -> None:
        """One that is denied reads alike, and leaves the function without."""
        assert statements(function)
        assert all(s["Effect"] == "Allow" for s in statements(function) if "Action" in s)

    def test_lambda_alone_may_take_its_role(self, function: str) -> None:
        role = RESOURCES[FUNCTIONS[function]["Role"]["Fn::GetAtt"][0]]["Properties"]
        (trusted,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert trusted == {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }

    def test_who_writes_a_secret_may_encrypt_it_with_the_deployers_key(self, function: str) -> None:
        """Reading is for all, below."""
        conditional = [s["Fn::If"] for s in statements(function) if "Fn::If" in s]
        encrypts = [
            [
                condition,
                {
                    "Effect": "Allow",
                    "Action": "kms:GenerateDataKey",
                    "Resource": {"Ref": keys},
                    "Condition": THROUGH_SECRETS_MANAGER,
                },
                {"Ref": "AWS::NoValue"},
            ]
            for condition, keys in KEYS
        ]
        conditional = [each for each in conditional if each[0] not in ("HasEmail", "HasEventBus")]
        assert conditional == (encrypts if writes_a_secret(function) else [])

    def test_who_sends_mails_may_send_from_the_stacks_address_alone(self, function: str) -> None:
        """As one of its identities, with the stack's configuration set."""
        granted = [s["Fn::If"] for s in statements(function) if "HasEmail" in s.get("Fn::If", [])]
        if "ses" not in built(function):
            assert granted == []
            return
        ((_, allowed_to, otherwise),) = granted
        assert (allowed_to["Effect"], allowed_to["Action"]) == ("Allow", "ses:SendEmail")
        assert [
            json.dumps(each).split(":${AWS::AccountId}:")[1] for each in allowed_to["Resource"]
        ] == [
            'identity/${Domain}", {"Domain": {"Fn::Select": [1,'
            ' {"Fn::Split": ["@", {"Ref": "EmailFrom"}]}]}}]}',
            'identity/${EmailFrom}"}',
            'configuration-set/${EmailConfigurationSet}"}',
        ]
        assert allowed_to["Condition"] == {
            "StringEquals": {"ses:FromAddress": {"Ref": "EmailFrom"}}
        }
        assert otherwise == {"Ref": "AWS::NoValue"}

    def test_who_queues_mails_may_invoke_the_function_that_sends_them(self, function: str) -> None:
        alias = [json.dumps({"Ref": "SendMailFunction.Alias"})]
        wakes = "mail_sender" in built(function)
        assert allowed(function, "lambda:InvokeFunction") == (alias if wakes else [])

    def test_who_puts_events_may_put_them_on_the_stacks_bus_alone(self, function: str) -> None:
        granted = [
            s["Fn::If"] for s in statements(function) if "HasEventBus" in s.get("Fn::If", [])
        ]
        if "event_bridge" not in built(function):
            assert granted == []
            return
        bus = {"Fn::GetAtt": ["OutgoingEventBus", "Arn"]}
        put = {
            "Effect": "Allow",
            "Action": "events:PutEvents",
            "Resource": {"Fn::If": ["MakesEventBus", bus, {"Ref": "EventBus"}]},
        }
        assert granted == [["HasEventBus", put, {"Ref": "AWS::NoValue"}]]

    def test_nothing_else_is_granted(self, function: str) -> None:
        """A new action has to be argued for here."""
        actions = {a for s in statements(function) for a in as_list(s.get("Action", []))}
        known = {
            "logs:CreateLogStream",
            "logs:PutLogEvents",
            "secretsmanager:GetSecretValue",
            "secretsmanager:PutSecretValue",
            "sqs:SendMessage",
            "lambda:InvokeFunction",
        }
        assert actions <= known

    def test_nothing_is_granted_on_everything(self, function: str) -> None:
        granted = list(statements(function))
        assert granted
        for statement in granted:
            if "Action" in statement:
                assert "*" not in as_list(statement["Resource"])


class TestCode:
    def test_little_of_aws_is_called(self) -> None:
        """So that is all a policy has to allow for the code's own sake."""
        sources = [*BILLING.rglob("*.py"), *ROOT.glob("functions/*/*.py")]
        callers = {p.name for p in sources if "boto3.client(" in p.read_text(encoding="utf-8")}
        assert callers == {"secrets.py", "service.py", "waking.py", "event_bridge.py"}
        text = (BILLING / "credentials" / "secrets.py").read_text(encoding="utf-8")
        assert text.count("boto3.client(") == text.count('boto3.client("secretsmanager"') == 1
        assert '"get_secret_value"' in text
        assert '"put_secret_value"' in text
        for name, call in (("service.py", "send_email("), ("waking.py", "invoke(")):
            text = (BILLING / "mail" / name).read_text(encoding="utf-8")
            assert text.count("boto3.client(") == text.count(call) == 1
        text = (BILLING / "events" / "event_bridge.py").read_text(encoding="utf-8")
        assert text.count("boto3.client(") == text.count("put_events(") == 1


class TestShared:
    """What every function may do: traces, always; the rest only where it is asked for."""

    def test_traces(self, shared: list[Statement]) -> None:
        assert shared[0] == {
            "Effect": "Allow",
            "Action": ["xray:PutTraceSegments", "xray:PutTelemetryRecords"],
            "Resource": "*",
        }

    def test_network_interfaces_in_a_vpc_only(self, shared: list[Statement]) -> None:
        condition, granted, otherwise = shared[1]["Fn::If"]
        assert condition == "HasVpc"
        assert granted == {
            "Effect": "Allow",
            "Action": [
                "ec2:CreateNetworkInterface",
                "ec2:DescribeNetworkInterfaces",
                "ec2:DescribeSubnets",
                "ec2:DeleteNetworkInterface",
                "ec2:AssignPrivateIpAddresses",
                "ec2:UnassignPrivateIpAddresses",
            ],
            "Resource": "*",
        }
        assert otherwise == {"Ref": "AWS::NoValue"}

    def test_code_has_nothing_of_what_lambda_does_with_networks(
        self, shared: list[Statement]
    ) -> None:
        """Only calls by a function's own code carry its ARN."""
        condition, denied, otherwise = shared[2]["Fn::If"]
        assert condition == "HasVpc"
        assert (denied["Effect"], denied["Action"], denied["Resource"]) == ("Deny", "ec2:*", "*")
        assert denied["Condition"] == {"Null": {"lambda:SourceFunctionArn": "false"}}
        assert otherwise == {"Ref": "AWS::NoValue"}

    def test_the_deployers_keys_through_secrets_manager_only(self, shared: list[Statement]) -> None:
        """The stack's own, and those of secrets that are encrypted with others."""
        assert KEYS
        for statement, (has, keys) in zip(shared[3:], KEYS, strict=True):
            condition, granted, otherwise = statement["Fn::If"]
            assert condition == has
            assert granted == {
                "Effect": "Allow",
                "Action": "kms:Decrypt",
                "Resource": {"Ref": keys},
                "Condition": THROUGH_SECRETS_MANAGER,
            }
            assert otherwise == {"Ref": "AWS::NoValue"}

    def test_there_is_no_more(self, shared: list[Statement]) -> None:
        assert len(shared) == 5


class TestTranslated:
    def test_sam_attaches_nothing_to_a_function(self, translated: Resources) -> None:
        """With a role of its own SAM adds no policy; every function has one."""
        roles = of_type(translated, "AWS::IAM::Role")
        functions = of_type(translated, "AWS::Lambda::Function")
        assert functions
        for function in functions.values():
            role = roles[function["Role"]["Fn::GetAtt"][0]]
            assert role["ManagedPolicyArns"] == [{"Ref": "FunctionBasics"}]

    def test_a_schedule_may_start_its_function_and_leave_its_failure(
        self, translated: Resources
    ) -> None:
        schedules = of_type(translated, "AWS::Scheduler::Schedule")
        assert schedules
        for name, schedule in schedules.items():
            target = schedule["Target"]
            role = of_type(translated, "AWS::IAM::Role")[target["RoleArn"]["Fn::GetAtt"][0]]
            granted = [
                (s["Effect"], s["Action"], s["Resource"])
                for policy in role["Policies"]
                for s in policy["PolicyDocument"]["Statement"]
            ]
            assert granted == [
                ("Allow", "lambda:InvokeFunction", target["Arn"]),
                ("Allow", "sqs:SendMessage", target["DeadLetterConfig"]["Arn"]),
            ], name

    def test_roles_that_nobody_wrote_are_known(self, translated: Resources) -> None:
        """SAM makes one for each schedule, held above, and CodeDeploy's, which has AWS's policy."""
        added = of_type(translated, "AWS::IAM::Role").keys() - RESOURCES.keys()
        schedules = {
            schedule["Target"]["RoleArn"]["Fn::GetAtt"][0]
            for schedule in of_type(translated, "AWS::Scheduler::Schedule").values()
        }
        assert added - schedules == {"CodeDeployServiceRole"}
        role = translated["CodeDeployServiceRole"]["Properties"]
        (trusted,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert trusted["Principal"] == {"Service": ["codedeploy.amazonaws.com"]}
        (policy,) = role["ManagedPolicyArns"]
        assert policy.startswith("arn:aws:iam::aws:policy/service-role/AWSCodeDeployRoleForLambda")
        assert "Policies" not in role

    def test_no_environment_holds_a_secret(self, translated: Resources) -> None:
        """Neither by name nor by what is put there: no dynamic reference, no hidden parameter."""
        hidden = {n for n, p in TEMPLATE_AS_WRITTEN["Parameters"].items() if p.get("NoEcho")}
        assert hidden == set()
        telling = ("SECRET", "KEY", "PASSWORD", "TOKEN")
        about_reading = {
            "SECRETS_ENDPOINT_URL",
            "PARAMETERS_SECRETS_EXTENSION_CACHE_ENABLED",
            "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT",
        }
        functions = of_type(translated, "AWS::Lambda::Function")
        assert functions
        for name, function in functions.items():
            variables = function["Environment"]["Variables"]
            named = {v for v in variables if any(word in v for word in telling)} - about_reading
            assert [v for v in named if not v.endswith("_SECRET_ARN")] == [], name
            assert "{{resolve:" not in json.dumps(variables), name


def test_the_people_secret_outlives_the_stack() -> None:
    """Without it nobody who was erased is recognised on the same database."""
    secret = RESOURCES["PeopleSecret"]
    assert secret["DeletionPolicy"] == "RetainExceptOnCreate"
    assert secret["UpdateReplacePolicy"] == "Retain"
