"""Reads the SAM template into plain data. Only this module uses SAM CLI's internals.

`samcli` documents none of the Python functions used here. So its version is pinned exactly in
requirements/run.txt, and tests/unit/local/gateway/test_template.py names the functions that a new
version has changed.

A template that we would serve differently from AWS is refused with an error. Otherwise a route that
is protected in AWS could be open here.
"""

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.gateway.conditions import Conditions, UnknownConditionError

REGION = "us-east-1"
ACCOUNT_ID = "123456789012"

ANY = "ANY"
DEFAULT_ROUTE = "$default"
_SAM_ANY = "x-amazon-apigateway-any-method"


class UnsupportedTemplateError(Exception):
    """The template asks for something the local gateway would not serve as AWS does."""


@dataclass(frozen=True)
class Cors:
    """The CORS settings of one API or function URL. An empty list adds no header."""

    allow_origins: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age_seconds: int | None = None
    allow_credentials: bool = False


@dataclass(frozen=True)
class Route:
    """One route of an HTTP API; `method` may be ANY, `path` may be `$default`."""

    method: str
    path: str
    function: str

    @property
    def key(self) -> str:
        return self.path if self.path == DEFAULT_ROUTE else f"{self.method} {self.path}"


@dataclass(frozen=True)
class HttpApi:
    routes: tuple[Route, ...]
    cors: Cors | None = None


@dataclass(frozen=True)
class FunctionUrl:
    function: str
    cors: Cors | None = None


@dataclass(frozen=True)
class Schedule:
    """One schedule of one function; `source` is `aws.events` (a rule) or `aws.scheduler`."""

    name: str
    function: str
    expression: str
    source: str
    payload: str | None = None


@dataclass(frozen=True)
class FunctionSpec:
    """Everything needed to run one function."""

    name: str
    handler: str
    code: Path
    layers: tuple[Path, ...] = ()
    memory_mb: int = 128
    timeout_seconds: float = 3
    runtime: str = "python3.13"
    environment: Mapping[str, str] = field(default_factory=dict)
    # Variables whose value is the URL of a function, by name. The server knows these URLs.
    url_variables: Mapping[str, str] = field(default_factory=dict)
    logging: Mapping[str, str] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{self.name}"


@dataclass(frozen=True)
class Template:
    functions: Mapping[str, FunctionSpec]
    api: HttpApi | None
    urls: tuple[FunctionUrl, ...]
    schedules: tuple[Schedule, ...]


def load_template(path: Path, parameters: Mapping[str, str] | None = None) -> Template:
    """Reads a `template.yaml`, either the source or the one that `sam build` wrote.

    Raises UnsupportedTemplateError where we would serve the template differently from AWS, and SAM
    CLI's own errors where it cannot be parsed.
    """
    functions, resources = _parse(path.resolve(), parameters or {})
    return Template(
        functions={f.name: _function(f, path.resolve().parent) for f in functions},
        api=_api(functions, resources),
        urls=tuple(_url(f) for f in functions if f.function_url_config),
        schedules=tuple(s for f in functions for s in _schedules(f)),
    )


def import_sam_cli() -> None:
    """Imports what `load_template` needs, which takes a second or more."""
    # SAM CLI sends telemetry unless this variable is set before the import.
    os.environ["SAM_CLI_TELEMETRY"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import samcli.lib.providers.sam_function_provider
        import samcli.lib.providers.sam_stack_provider  # noqa: F401


def _parse(path: Path, parameters: Mapping[str, str]) -> tuple[list[Any], Mapping[str, Any]]:
    """The template's functions and resources, as SAM CLI reads them.

    SAM CLI serves functions whatever their condition says. Here those are left out that
    CloudFormation would not make.
    """
    import_sam_cli()
    pseudo = {
        "AWS::Region": REGION,
        "AWS::StackName": "local",
        "AWS::AccountId": ACCOUNT_ID,
    }
    with warnings.catch_warnings():
        # SAM CLI uses functions that its own translator has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        from samcli.lib.providers.sam_function_provider import SamFunctionProvider
        from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider

        stacks, _ = SamLocalStackProvider.get_stacks(
            str(path),
            parameter_overrides=dict(parameters),
            global_parameter_overrides=pseudo,
        )
        if len(stacks) != 1:
            raise UnsupportedTemplateError("Nested stacks are not served locally.")
        functions = [f for f in SamFunctionProvider(stacks).get_all() if f.packagetype == "Zip"]
    conditions = Conditions(stacks[0].template_dict, {**pseudo, **parameters})
    try:
        made = {n: r for n, r in stacks[0].resources.items() if conditions.are_met_by(r)}
    except UnknownConditionError as error:
        raise UnsupportedTemplateError(str(error)) from error
    return [f for f in functions if f.function_id in made], made


def _function(function: Any, root: Path) -> FunctionSpec:
    if function.inlinecode:
        raise UnsupportedTemplateError(f"{function.name}: inline code is not served locally.")
    variables = (function.environment or {}).get("Variables") or {}
    return FunctionSpec(
        name=function.name,
        handler=function.handler,
        code=root / function.codeuri,
        # A layer without code exists in AWS only. It is the secrets extension, whose protocol the
        # gateway serves itself.
        layers=tuple(root / layer.codeuri for layer in function.layers if layer.codeuri),
        memory_mb=int(function.memory or 128),
        timeout_seconds=float(function.timeout or 3),
        runtime=function.runtime,
        environment={name: _alias(_text(value)) for name, value in variables.items()},
        url_variables={
            name: owner for name, value in variables.items() if (owner := _url_owner(value))
        },
        logging={name: _text(value) for name, value in (function.logging_config or {}).items()},
    )


def _text(value: object) -> str:
    """A value in CloudFormation's text form. An intrinsic that was not resolved is empty."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or isinstance(value, (dict, list)) else str(value)


def _alias(value: str) -> str:
    """The ARN that `!Ref SomeFunction.Alias` stands for; any other value as it is."""
    found = re.fullmatch(r"(\w+Function)\.Alias", value)
    return f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{found[1]}:live" if found else value


def _url_owner(value: object) -> str | None:
    """The function whose URL a value refers to, from the name that SAM gives to the resource."""
    asked = value.get("Fn::GetAtt") if isinstance(value, dict) else None
    if isinstance(asked, list) and len(asked) == 2 and asked[1] == "FunctionUrl":
        return str(asked[0]).removesuffix("Url")
    return None


def _api(functions: Iterable[Any], resources: Mapping[str, Any]) -> HttpApi | None:
    routes: dict[str, list[Route]] = {}
    for logical_id, resource in resources.items():
        if resource["Type"] == "AWS::Serverless::HttpApi":
            _refuse_what_we_cannot_serve(logical_id, resource.get("Properties", {}))
            routes[logical_id] = []
    for function in functions:
        for name, event in (function.events or {}).items():
            where = f"{function.name}, event {name}"
            if event["Type"] in {"Api", "WebSocket"}:
                raise UnsupportedTemplateError(f"{where}: only HTTP APIs are served locally.")
            if event["Type"] == "HttpApi":
                properties = event.get("Properties") or {}
                api = str(properties.get("ApiId") or "ServerlessHttpApi")
                routes.setdefault(api, []).append(_route(function.name, properties, where))
    if len(routes) > 1:
        raise UnsupportedTemplateError(
            f"Only one HTTP API is served locally, and this template has {', '.join(routes)}."
        )
    for logical_id, found in routes.items():
        properties = resources.get(logical_id, {}).get("Properties") or {}
        return HttpApi(tuple(found), _cors(properties.get("CorsConfiguration")))
    return None


def _refuse_what_we_cannot_serve(logical_id: str, properties: Mapping[str, Any]) -> None:
    if (properties.get("Auth") or {}).get("DefaultAuthorizer"):
        raise UnsupportedTemplateError(
            f"{logical_id}: authorizers are not enforced locally, so its routes would be open."
        )
    # SAM marks the definitions it generated from the events.
    if "DefinitionUri" in properties or (
        "DefinitionBody" in properties and not properties.get("__MANAGE_SWAGGER")
    ):
        raise UnsupportedTemplateError(
            f"{logical_id}: routes from an OpenAPI definition are not read; use HttpApi events."
        )


def _route(function: str, properties: Mapping[str, Any], where: str) -> Route:
    authorizer = (properties.get("Auth") or {}).get("Authorizer")
    if authorizer and authorizer != "NONE":
        raise UnsupportedTemplateError(
            f"{where}: authorizer {authorizer} is not enforced locally, so the route would be open."
        )
    if str(properties.get("PayloadFormatVersion", "2.0")) != "2.0":
        raise UnsupportedTemplateError(f"{where}: only payload format 2.0 is served locally.")
    method = str(properties.get("Method") or ANY)
    return Route(
        ANY if method.lower() in {"any", _SAM_ANY} else method.upper(),
        str(properties.get("Path") or DEFAULT_ROUTE),
        function,
    )


def _url(function: Any) -> FunctionUrl:
    config = function.function_url_config
    if config.get("AuthType") != "NONE":
        raise UnsupportedTemplateError(
            f"{function.name}: a function URL with AuthType {config.get('AuthType')} would be open."
        )
    if config.get("InvokeMode", "BUFFERED") != "BUFFERED":
        raise UnsupportedTemplateError(f"{function.name}: only buffered function URLs are served.")
    return FunctionUrl(function.name, _cors(config.get("Cors")))


def _cors(settings: Any) -> Cors | None:
    if not settings:
        return None
    if settings is True:
        return Cors(allow_origins=("*",))
    max_age = settings.get("MaxAge")
    return Cors(
        allow_origins=_strings(settings.get("AllowOrigins")),
        allow_methods=_strings(settings.get("AllowMethods")),
        allow_headers=_strings(settings.get("AllowHeaders")),
        expose_headers=_strings(settings.get("ExposeHeaders")),
        max_age_seconds=None if max_age is None else int(max_age),
        allow_credentials=str(settings.get("AllowCredentials", "false")).lower() == "true",
    )


def _strings(values: Any) -> tuple[str, ...]:
    listed = values.split(",") if isinstance(values, str) else values or ()
    return tuple(str(value).strip() for value in listed if str(value).strip())


def _schedules(function: Any) -> Iterable[Schedule]:
    for name, event in (function.events or {}).items():
        properties = event.get("Properties") or {}
        if event["Type"] not in {"Schedule", "ScheduleV2"} or not _enabled(properties):
            continue
        second = event["Type"] == "ScheduleV2"
        yield Schedule(
            name=f"{function.name}{name}",
            function=function.name,
            expression=str(properties.get("ScheduleExpression" if second else "Schedule")),
            source="aws.scheduler" if second else "aws.events",
            payload=properties.get("Input"),
        )


def _enabled(properties: Mapping[str, Any]) -> bool:
    return (
        str(properties.get("Enabled", "true")).lower() == "true"
        and str(properties.get("State", "ENABLED")).upper() == "ENABLED"
    )


_UNIT_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}


def rate_seconds(expression: str) -> int:
    """The seconds between two runs of a schedule in AWS. `cron` and `at` count as once a day."""
    rate = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", expression.strip())
    return int(rate[1]) * _UNIT_SECONDS[rate[2]] if rate else _UNIT_SECONDS["day"]
