"""Each function is handed the variables that its code reads, and each from its own parameter."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from billing.config import Misconfigured, Settings, from_env
from tests.unit.cloudformation import ROOT, TEMPLATE, app_of, called, load, of_type
from tests.unit.source import BILLING, WIRING, built_for, modules_of, parse

TEMPLATE_AS_WRITTEN = load(TEMPLATE)
FUNCTIONS = of_type(TEMPLATE_AS_WRITTEN["Resources"], "AWS::Serverless::Function")
SHARED: dict[str, Any] = TEMPLATE_AS_WRITTEN["Globals"]["Function"]["Environment"]["Variables"]
CONFIG = BILLING / "config.py"

# The local stack alone has a clock of its own, and endpoints on its own machine.
LOCAL = {"CLOCK_URL", "EVENT_RECEIVERS_ON_LOOPBACK"}
# Read by Powertools, by the secrets extension, by nobody (it makes each build a new version), and
# by the module of metrics, which every function has.
READ_BY_OTHERS = {
    "POWERTOOLS_SERVICE_NAME",
    "POWERTOOLS_METRICS_NAMESPACE",
    "PARAMETERS_SECRETS_EXTENSION_CACHE_ENABLED",
    "BUILD_ID",
    "WATCHED_BUILD",
}
# Whatever is not set in the template is set by Lambda.
SET_BY_LAMBDA = {"AWS_SESSION_TOKEN"}
OTHER_VALUES = (
    *("7", "false", "true", "sandbox", "https://other.example", "usd=7", "other"),
    *("de", "#0a5c36"),
)

PEOPLE_SECRET = {
    "Fn::If": ["MakesPeopleSecret", {"Ref": "PeopleSecret"}, {"Ref": "PeopleSecretArn"}]
}
APP_SECRET = {"Fn::If": ["MakesAppSecret", {"Ref": "AppSecret"}, {"Ref": "AppSecretArn"}]}
WEBHOOK_SECRET = {
    "Fn::If": ["MakesWebhookSecret", {"Ref": "WebhookSecret"}, {"Ref": "WebhookSecretArn"}]
}
# Of the variables that are not their own parameter: PAST_DUE_HAS_ACCESS is PastDueHasAccess.
VALUES: dict[str, Any] = {
    "WATCHED_BUILD": {"Fn::If": ["IsCanary", {"Ref": "BuildId"}, ""]},
    "POWERTOOLS_METRICS_NAMESPACE": {"Fn::Sub": "UsageBilling/${AWS::StackName}"},
    "ALLOWED_ORIGINS": {"Fn::Join": [",", {"Ref": "AllowedOrigins"}]},
    "DATABASE_SSLMODE": {"Ref": "DatabaseSslMode"},
    "PARAMETERS_SECRETS_EXTENSION_CACHE_ENABLED": "false",
    "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": {"Fn::If": ["HasSecretsExtension", "2773", ""]},
    "WEBHOOK_URL": {"Fn::GetAtt": ["WebhookFunctionUrl", "FunctionUrl"]},
    "APP_SECRET_ARN": APP_SECRET,
    "PEOPLE_SECRET_ARN": PEOPLE_SECRET,
    "EMAIL_CONFIGURATION_SET": {"Fn::If": ["HasEmail", {"Ref": "EmailConfigurationSet"}, ""]},
    "SEND_MAIL_FUNCTION": {"Ref": "SendMailFunction.Alias"},
    "WEBHOOK_SECRET_ARN": WEBHOOK_SECRET,
    "EVENT_BUS": {
        "Fn::If": [
            "MakesEventBus",
            {"Fn::GetAtt": ["OutgoingEventBus", "Arn"]},
            {"Ref": "EventBus"},
        ]
    },
    "API_URL": {"Fn::If": ["HasDomain", {"Fn::Sub": "https://${DomainName}"}, ""]},
    "PAGES": {"Fn::If": ["HasPages", "true", "false"]},
}
ACCOUNTS_ROLE = {"Fn::Sub": "${DatabaseAccountsSecretArn}"}
# The origins of forms: those of the stack, and its own domain.
OF_PAGES = {
    "Fn::If": [
        "HasDomain",
        {"Fn::Join": [",", [VALUES["ALLOWED_ORIGINS"], {"Fn::Sub": "https://${DomainName}"}]]},
        VALUES["ALLOWED_ORIGINS"],
    ]
}
# Built with what its function never asks for: who signs in does not sign up.
NEVER_ASKED_FOR = {
    ("SessionFunction", "SIGN_UPS_PER_HOUR"),
    ("AccountFunction", "SIGN_UPS_PER_HOUR"),
}
# Where a function is handed something else in a variable's place.
OWN_VALUES: dict[tuple[str, str], Any] = {
    ("MigrateFunction", "DATABASE_HOST"): {
        "Fn::If": ["HasMigrationHost", {"Fn::Sub": "${MigrationHost}"}, {"Ref": "DatabaseHost"}]
    },
    ("MigrateFunction", "DATABASE_PORT"): {
        "Fn::If": [
            "HasMigrationPort",
            {"Fn::Sub": "${MigrationPort}"},
            {"Fn::Sub": "${DatabasePort}"},
        ]
    },
    ("MigrateFunction", "DATABASE_POOLED"): {
        "Fn::If": ["MigratesDirectly", "false", {"Fn::Sub": "${DatabasePooled}"}]
    },
    ("RegisterWebhookFunction", "DATABASE_SECRET_ARN"): "",
    ("SendMailFunction", "DATABASE_SECRET_ARN"): ACCOUNTS_ROLE,
    ("AccountFunction", "DATABASE_SECRET_ARN"): ACCOUNTS_ROLE,
    ("SessionFunction", "DATABASE_SECRET_ARN"): ACCOUNTS_ROLE,
    ("SignupFunction", "DATABASE_SECRET_ARN"): ACCOUNTS_ROLE,
    ("PagesFunction", "DATABASE_SECRET_ARN"): ACCOUNTS_ROLE,
    ("PagesFunction", "ALLOWED_ORIGINS"): OF_PAGES,
    ("OpsFunction", "ALLOWED_ORIGINS"): OF_PAGES,
}
# It shows the names of service keys. Others need the secret where a route takes keys.
LISTS_KEYS = {"OpsFunction"}


class _Reading(dict[str, str]):
    """An environment that keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


@cache
def fields_of() -> dict[str, frozenset[str]]:
    """Which fields of the settings follow each variable that from_env reads."""
    reading = _Reading()
    from_env(reading)
    return {name: _changed_by(name) for name in sorted(reading.asked)}


def _changed_by(variable: str) -> frozenset[str]:
    before = _flat(from_env({}))
    changed: set[str] = set()
    for value in OTHER_VALUES:
        try:
            after = _flat(from_env({variable: value}))
        except Misconfigured:
            continue
        changed |= {name for name in before if before[name] != after[name]}
    return frozenset(changed)


def _flat(settings: Settings) -> dict[str, object]:
    fields: dict[str, object] = asdict(settings)
    del fields["database"]
    return fields | asdict(settings.database)


@cache
def read_by(function: str) -> frozenset[str]:
    """The fields of the settings that a function's code reads, wherever it has them from."""
    app = app_of(FUNCTIONS[function])
    found = {name for node in _code_of(app) for name in _fields_read(node)}
    for name, needs in _properties().items():
        if name in found:
            found |= needs
    return frozenset(found)


def _code_of(app: Path) -> Iterator[ast.AST]:
    """All modules a function has, and of the one that builds everything what it builds for it."""
    yield from (parse(path) for path in modules_of(app) - {WIRING, CONFIG})
    asked = built_for(app)
    for node in parse(WIRING).body:
        if isinstance(node, ast.FunctionDef) and node.name in asked:
            yield node


def _fields_read(tree: ast.AST) -> Iterator[str]:
    """`settings.currency`, `self._settings.currency` and `wiring.settings().currency`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.fullmatch(
            r"(\w+\.)?_?settings(\(\))?(\.database)?", ast.unparse(node.value)
        ):
            yield node.attr


@cache
def _properties() -> dict[str, set[str]]:
    """The properties of the settings, and the fields they are made of."""
    (settings,) = (
        node
        for node in parse(CONFIG).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    return {
        member.name: {
            node.attr
            for node in ast.walk(member)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
        }
        for member in settings.body
        if isinstance(member, ast.FunctionDef)
    }


def read_from_the_environment() -> set[str]:
    """The variables that modules of the layer and of functions read past the settings."""
    found: set[str] = set()
    for path in [*BILLING.rglob("*.py"), *ROOT.glob("functions/*/*.py")]:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"""environ(?:\.get\(|\[)\s*["'](\w+)""", text))
    return found


def handed_to(function: str) -> Mapping[str, Any]:
    own: dict[str, Any] = FUNCTIONS[function]["Environment"]["Variables"]
    return SHARED | own


def needed_by(function: str) -> set[str]:
    """The variables that decide about what a function's code reads."""
    read = read_by(function)
    needed = {
        name
        for name, fields in fields_of().items()
        if fields & read and (function, name) not in NEVER_ASKED_FOR
    }
    # Any function with routes could look at service keys; it does where a route takes them.
    app = app_of(FUNCTIONS[function])
    takes_keys = "_service(" in app.read_text(encoding="utf-8")
    return needed if takes_keys or function in LISTS_KEYS else needed - {"SERVICE_KEYS_SECRET_ARN"}


class TestSettings:
    def test_every_variable_decides_something(self) -> None:
        """A variable that is read and changes nothing is a setting that has no effect."""
        assert {name for name, fields in fields_of().items() if not fields} == set()

    def test_every_setting_is_read_by_some_function(self) -> None:
        fields = {name for fields in fields_of().values() for name in fields}
        assert fields - {name for each in FUNCTIONS for name in read_by(each)} == set()

    def test_every_setting_has_its_variable(self) -> None:
        """One that no variable changes is a constant."""
        changeable = {name for fields in fields_of().values() for name in fields}
        assert _flat(from_env({})).keys() == changeable

    def test_what_is_left_out_is_what_the_template_would_give(self) -> None:
        """Whoever runs a function by hand gets what a deployment has unless told otherwise."""
        described = TEMPLATE_AS_WRITTEN["Parameters"]
        handed = {n: v for function in FUNCTIONS for n, v in handed_to(function).items()}
        defaults = {
            name: str(described[value["Ref"]]["Default"])
            for name, value in handed.items()
            if name in fields_of()
            and isinstance(value, dict)
            and "Default" in described.get(value.get("Ref"), {})
        }
        assert "DELIVERY_INTERVAL_SECONDS" in defaults
        for name, default in defaults.items():
            assert from_env({name: default}) == from_env({}), name

    def test_little_is_read_past_the_settings(self) -> None:
        """What is, the template hands to every function, or Lambda does."""
        found = read_from_the_environment()
        assert found == {
            "AWS_SESSION_TOKEN",
            "POWERTOOLS_METRICS_NAMESPACE",
            "POWERTOOLS_SERVICE_NAME",
            "WATCHED_BUILD",
        }
        for function in FUNCTIONS:
            assert found - SET_BY_LAMBDA <= handed_to(function).keys(), function


@pytest.mark.parametrize("function", FUNCTIONS)
class TestFunction:
    def test_it_is_handed_every_variable_that_its_code_reads(self, function: str) -> None:
        """Without one the default is used, whatever the deployer chose."""
        needed = needed_by(function) - LOCAL
        assert needed
        assert needed - handed_to(function).keys() == set()

    def test_its_code_reads_every_variable_that_it_alone_is_handed(self, function: str) -> None:
        """One that is not read promises what does not happen."""
        own = FUNCTIONS[function]["Environment"]["Variables"].keys() - SHARED.keys()
        assert own - READ_BY_OTHERS - needed_by(function) == set()

    def test_each_variable_holds_its_own_parameter(self, function: str) -> None:
        handed = handed_to(function)
        assert handed
        for name, value in handed.items():
            parameter = {"Ref": "".join(word.capitalize() for word in name.split("_"))}
            wanted = OWN_VALUES.get((function, name), VALUES.get(name, parameter))
            if name != "POWERTOOLS_SERVICE_NAME":
                assert value == wanted, name

    def test_it_goes_by_the_name_of_its_folder(self, function: str) -> None:
        """Or of its file. By that its metrics and log lines are found."""
        assert handed_to(function)["POWERTOOLS_SERVICE_NAME"] == called(FUNCTIONS[function])


def test_what_all_are_handed_several_read() -> None:
    """A variable that one function reads belongs to that one."""
    readers = {
        name: {each for each in FUNCTIONS if name in needed_by(each)}
        for name in SHARED.keys() - READ_BY_OTHERS
    }
    assert readers
    assert {name: found for name, found in readers.items() if len(found) < 2} == {}
