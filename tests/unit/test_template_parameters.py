"""Each parameter has an effect, and on all that it is meant for."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.unit.cloudformation import ROOT, TEMPLATE, load, of_type

Template = dict[str, Any]

STACK: Template = load(TEMPLATE)
DATABASE: Template = load(ROOT / "database.yaml")
RESOURCES: dict[str, dict[str, Any]] = STACK["Resources"]
NO_VALUE = object()

# What the stack is deployed with where nothing is chosen, but for the last.
GIVEN = {
    "BuildId": "0" * 16,
    "CommetSecretArn": "arn:commet",
    "ServiceKeysSecretArn": "arn:keys",
    "DatabaseHost": "db",
    "DatabaseSecretArn": "arn:app",
    "DatabaseAccountsSecretArn": "arn:accounts",
    "DatabaseOwnerSecretArn": "arn:owner",
    "AppUrl": "https://app.example",
    "AllowedOrigins": "https://app.example",
    "RunbookUrl": "https://runbook.example",
    # Without it, the stack would make no bus here.
    "EventBus": "own",
    # Without them, the operators' page would not be looked at here.
    "Operators": "ana@a.example",
}
# What a parameter says only where another is given.
BESIDE: dict[str, dict[str, str]] = {
    "DomainCertificateArn": {"DomainName": "api.example"},
    "DomainHostedZoneId": {"DomainName": "api.example"},
    "VpcSecurityGroupIds": {"VpcSubnetIds": "subnet-1", "VpcSecurityGroupIds": "sg-0"},
}
# Of those for which neither another allowed value nor any text will do.
OTHER = {
    "AllowedOrigins": "https://app.example,https://other.example",
    "BuildId": "1" * 16,
    "EventBus": "",
    "MigrationPort": "5433",
    "Operators": "",
    "OtherConcurrency": "5",
    "UsageConcurrency": "5",
    "VpcCidr": "10.91.0.0/16",
    "VpcSecurityGroupIds": "sg-1,sg-2",
    "VpcSubnetIds": "subnet-1,subnet-2",
    "WebhookConcurrency": "5",
}


class Deployed:
    """A template as it reads with some parameters given."""

    def __init__(self, template: Template, given: Mapping[str, str]) -> None:
        self._conditions = template["Conditions"]
        self._values: dict[str, Any] = {}
        for name, described in template["Parameters"].items():
            value = str((GIVEN | dict(given)).get(name, described.get("Default")))
            is_list = described["Type"] == "CommaDelimitedList"
            self._values[name] = value.split(",") if is_list else value
        shared = template.get("Globals", {}).get("Function", {})
        self.parts: dict[str, Any] = {"Every function": self._read(shared)}
        for section, called in (("Resources", "{}"), ("Outputs", "Output {}")):
            for name, part in template[section].items():
                if "Condition" not in part or self._holds(part["Condition"]):
                    self.parts[called.format(name)] = self._read(part.get("Properties", part))

    def _read(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._read(each) for each in part]
        if not isinstance(part, dict):
            return part
        if len(part) == 1:
            ((kind, what),) = part.items()
            if kind == "Ref":
                return self._values.get(what, part)
            if kind == "Fn::If":
                condition, granted, otherwise = what
                return self._read(granted if self._holds(condition) else otherwise)
            if kind == "Fn::Sub":
                text = str(what)
                for name, value in self._values.items():
                    text = text.replace(f"${{{name}}}", str(value))
                return {kind: text}
        return {name: self._read(each) for name, each in part.items()}

    def _holds(self, condition: str) -> bool:
        return self._is(self._conditions[condition])

    def _is(self, rule: dict[str, Any]) -> bool:
        ((kind, what),) = rule.items()
        if kind == "Condition":
            return self._holds(what)
        if kind == "Fn::Not":
            return not self._is(what[0])
        if kind == "Fn::And":
            return all(self._is(each) for each in what)
        if kind == "Fn::Or":
            return any(self._is(each) for each in what)
        assert kind == "Fn::Equals"
        one, other = (self._text(each) for each in what)
        return one == other

    def _text(self, value: Any) -> str:
        if isinstance(value, dict) and "Fn::Join" in value:
            between, parts = value["Fn::Join"]
            return str(between).join(self._read(parts))
        return str(self._read(value))


def leaves(part: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value in a part of the template, and where it is."""
    if isinstance(part, dict) and not {"Ref", "Fn::Sub", "Fn::GetAtt"} & part.keys():
        for name, each in part.items():
            yield from leaves(each, f"{path}.{name}" if path else str(name))
    elif isinstance(part, list):
        for index, each in enumerate(part):
            yield from leaves(each, f"{path}[{index}]")
    else:
        yield path, part


def other(template: Template, parameter: str) -> str:
    """A value that it does not have by itself."""
    described = template["Parameters"][parameter]
    before = GIVEN.get(parameter) or described.get("Default", "")
    if parameter in OTHER:
        return OTHER[parameter]
    if "AllowedValues" in described:
        return next(str(each) for each in described["AllowedValues"] if each != before)
    return str(float(before) + 1) if described["Type"] == "Number" else "other"


def effects(template: Template, parameter: str) -> set[str]:
    """Where another value makes a difference. A part that comes or goes is named as a whole."""
    beside = BESIDE.get(parameter, {})
    before = Deployed(template, beside).parts
    after = Deployed(template, beside | {parameter: other(template, parameter)}).parts
    found = before.keys() ^ after.keys()
    for name in before.keys() & after.keys():
        one, another = dict(leaves(before[name], name)), dict(leaves(after[name], name))
        found |= {
            path
            for path in one.keys() | another.keys()
            if one.get(path, NO_VALUE) != another.get(path, NO_VALUE)
        }
    return found


def properties(template: Template, parameter: str) -> set[str]:
    """The same by resource and property, but for variables of functions, which have a test."""
    found = effects(template, parameter)
    paths = {path for path in found if "Environment.Variables." not in path}
    return {".".join(path.split("[")[0].split(".")[:2]) for path in paths}


def each(kind: str, wanted: str, *, of: Template = STACK) -> set[str]:
    """This property of all resources of a kind."""
    found = of_type(of["Resources"], f"AWS::{kind}")
    assert found
    return {f"{name}.{wanted}" for name in found}


def roles(*functions: str) -> set[str]:
    """What the roles of these functions allow."""
    return {f"{function}Role.Policies" for function in functions}


FUNCTIONS = [n.removesuffix("Function") for n in of_type(RESOURCES, "AWS::Serverless::Function")]
# Their database role is `accounts`, which reads passwords.
OF_ACCOUNTS = ["Account", "Pages", "SendMail", "Session", "Signup"]


def told(variable: str) -> list[str]:
    """The functions that are told the secret in a variable of their own, and so may read it.

    Which they are told follows from their code (tests/unit/test_template_environment.py).
    """
    functions = of_type(RESOURCES, "AWS::Serverless::Function")
    return [
        name.removesuffix("Function")
        for name, function in functions.items()
        if function["Environment"]["Variables"].get(variable)
    ]


SPEAKS_TO_COMMET = told("COMMET_SECRET_ARN")
# The functions that answer HTTP, but for the two that have a parameter of their own.
OTHERS_THAT_ANSWER = {
    name
    for name, function in of_type(RESOURCES, "AWS::Serverless::Function").items()
    if any(event["Type"] == "HttpApi" for event in function.get("Events", {}).values())
} - {"TrackUsageFunction", "WebhookFunction"}

# Made with a canary only.
CANARY_ALARMS = {
    f"{name}.AlarmDescription"
    for name in of_type(RESOURCES, "AWS::CloudWatch::Alarm")
    if RESOURCES[name].get("Condition") == "IsCanary"
}

# What a stack with pages has, beside lines of the dashboard and of the alarm of canaries.
WITH_PAGES = {
    *("PagesFunction", "PagesRole", "PagesLogs", "Api.RouteSettings"),
    *("FunctionErrorsAlarm.Metrics", "ThrottlesAlarm.Metrics"),
}

# The operators' page is not made unless somebody is named.
WITH_OPS = {
    *("OpsFunction", "OpsRole", "OpsLogs"),
    *("FunctionErrorsAlarm.Metrics", "ThrottlesAlarm.Metrics"),
}

# Beside variables of functions, which tests/unit/test_template_environment.py holds.
EFFECTS: dict[str, set[str]] = {
    "BuildId": each("Serverless::Function", "AutoPublishCodeSha256")
    | {"Migrations.BuildId", "WebhookEndpoint.BuildId"},
    "CommetSecretArn": roles(*SPEAKS_TO_COMMET),
    "RegisterWebhook": {"WebhookEndpoint"},
    "WebhookSecretArn": {"WebhookSecret"} | roles("Webhook", "RegisterWebhook"),
    "WebhookSecretRotation": {"WebhookEndpoint.Rotation"},
    "ServiceKeysSecretArn": roles(*told("SERVICE_KEYS_SECRET_ARN")),
    "AppSecretArn": {"AppSecret"} | roles("Account", "Pages", "SendMail", "Session", "Signup"),
    "PeopleSecretArn": {"PeopleSecret"}
    | roles("Account", "Dashboard", "Events", "Pages", "SendEvents", "Session", "Signup"),
    "Pages": WITH_PAGES | WITH_OPS,
    "OwnAccounts": WITH_PAGES | WITH_OPS,
    "Operators": WITH_OPS,
    "EmailFrom": {"EmailConfigurationSet", "EmailEvents"}
    | {"UnwelcomeMails", "UnwelcomeMailsPermission", "FailureQueuePolicy.PolicyDocument"}
    | roles("SendMail"),
    "EventBus": {
        *("OutgoingEventBus", "OutgoingEventArchive", "OutgoingEventRule", "OutgoingEventLogs"),
        *("OutgoingEventLogsPolicy", "OutgoingEventFailures", "OutgoingEventFailuresPolicy"),
        "EventsNotLoggedAlarm",
        "Output EventBusArn",
    }
    | roles("SendEvents"),
    "DatabaseSecretArn": roles(*FUNCTIONS) - roles("RegisterWebhook", *OF_ACCOUNTS),
    "DatabaseAccountsSecretArn": roles("Migrate", *OF_ACCOUNTS),
    "DatabaseOwnerSecretArn": roles("Migrate"),
    "AllowedOrigins": {"Api.CorsConfiguration"},
    "VpcSubnetIds": {"Every function.VpcConfig", "FunctionBasics.PolicyDocument"},
    "VpcSecurityGroupIds": {"Every function.VpcConfig"},
    "KmsKeyArn": each("Logs::LogGroup", "KmsKeyId")
    | each("SecretsManager::Secret", "KmsKeyId")
    | {"AlarmKey", "AlarmTopic.KmsMasterKeyId", "FunctionBasics.PolicyDocument"}
    | roles("RegisterWebhook"),
    "SecretKmsKeyArns": {"FunctionBasics.PolicyDocument"} | roles("RegisterWebhook"),
    "Architecture": {"Every function.Architectures", "CommonLayer.CompatibleArchitectures"},
    "SnapStart": {"Every function.SnapStart", "TrackUsageFunction.SnapStart"},
    "Canary": {
        "Every function.DeploymentPreference",
        *(name.removesuffix(".AlarmDescription") for name in CANARY_ALARMS),
    },
    "WebhookConcurrency": {"WebhookFunction.ReservedConcurrentExecutions"},
    "UsageConcurrency": {"TrackUsageFunction.ReservedConcurrentExecutions"},
    "OtherConcurrency": {f"{name}.ReservedConcurrentExecutions" for name in OTHERS_THAT_ANSWER},
    "UsageProvisionedConcurrency": {
        "TrackUsageFunction.ProvisionedConcurrencyConfig",
        "TrackUsageFunction.SnapStart",
    },
    "ApiRequestsPerSecond": {"Api.DefaultRouteSettings"},
    "UsageRequestsPerSecond": {"Api.RouteSettings"},
    "SignInRequestsPerSecond": {"Api.RouteSettings"},
    "DomainName": {"ApiDomain", "ApiMapping", "Output ApiUrl.Value", "Output DomainTarget"},
    "DomainCertificateArn": {"ApiDomain.DomainNameConfigurations"},
    "DomainHostedZoneId": {"ApiRecord"},
    "AlarmEmail": {"AlarmMail"},
    "RunbookUrl": each("CloudWatch::Alarm", "AlarmDescription") - CANARY_ALARMS,
    "LogRetentionDays": each("Logs::LogGroup", "RetentionInDays"),
    "LogLevel": {"Every function.LoggingConfig"},
    "SecretsExtensionLayerArn": {"Every function.Layers"},
}


DATABASE_EFFECTS: dict[str, set[str]] = {
    "DatabaseName": {
        "Database.DatabaseName",
        "AppRole.Database",
        "AccountsRole.Database",
        "Output DatabaseName.Value",
    },
    "EngineVersion": {"Database.EngineVersion", "DatabaseSettings.Family"},
    "MinCapacity": {"Database.ServerlessV2ScalingConfiguration"},
    "MaxCapacity": {"Database.ServerlessV2ScalingConfiguration"},
    "AppConnections": {"AppRole.Connections"},
    "AccountsConnections": {"AccountsRole.Connections"},
    "ConnectionsAlarm": {"DatabaseConnectionsAlarm.Threshold"},
    "Standby": {"StandbyInstance"},
    "BackupDays": {"Database.BackupRetentionPeriod"},
    "DeletionProtection": {"Database.DeletionProtection"},
    "VpcCidr": {"Vpc.CidrBlock", "FunctionSecurityGroup.SecurityGroupEgress"}
    | each("EC2::Subnet", "CidrBlock", of=DATABASE),
    "NatGateways": {"NatAddressB", "NatB", "FunctionRouteB.NatGatewayId"},
    "AlarmEmail": {"AlarmMail"},
    "RunbookUrl": each("CloudWatch::Alarm", "AlarmDescription", of=DATABASE),
    "LogRetentionDays": each("Logs::LogGroup", "RetentionInDays", of=DATABASE),
}


@pytest.mark.parametrize("parameter", STACK["Parameters"])
class TestEach:
    def test_another_value_makes_a_difference(self, parameter: str) -> None:
        """One that makes none is a promise to the deployer that nobody keeps."""
        assert effects(STACK, parameter)

    def test_it_has_its_effect_on_all_that_it_is_meant_for(self, parameter: str) -> None:
        assert properties(STACK, parameter) == EFFECTS.get(parameter, set())


@pytest.mark.parametrize("parameter", DATABASE["Parameters"])
class TestDatabase:
    def test_it_has_its_effect_on_all_that_it_is_meant_for(self, parameter: str) -> None:
        assert properties(DATABASE, parameter) == DATABASE_EFFECTS[parameter]


def test_what_all_functions_share_none_sets_anew() -> None:
    """But for starting from a snapshot and moving gently, which only those with routes do."""
    shared = STACK["Globals"]["Function"].keys()
    functions = of_type(RESOURCES, "AWS::Serverless::Function")
    assert functions
    for name, function in functions.items():
        own = {"Environment", "LoggingConfig", "MemorySize", "SnapStart", "DeploymentPreference"}
        own |= {"Handler"} if name == "OpsFunction" else set()
        assert function.keys() & shared - own <= {"Timeout"}, name
