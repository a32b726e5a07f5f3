"""Writes docs/openapi.json from the code, or checks that it is up to date.

Each function describes its own routes, and this module merges them into one document. It adds the
problems that every route can answer (callers, validation, throttling, outages), and the webhook's
route, because the webhook function has no router.
"""

import argparse
import copy
import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer, SecuritySchemeType

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = ("signup", "session", "account", "checkout", "portal", "dashboard", "track_usage")
TAGS = {
    "signup": "Accounts",
    "session": "Accounts",
    "account": "Accounts",
    "checkout": "Plans and checkout",
    "portal": "Portal",
    "dashboard": "Dashboard",
    "track_usage": "Usage",
}

Document = dict[str, Any]

_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
_INFO = {
    "title": "Usage billing",
    "version": "1",
    "description": (
        "Usage-based billing through Commet. Quantities and money are decimal strings, times are "
        "ISO-8601 UTC. Every error of ours is a problem document (RFC 9457) whose `code` is "
        "stable. Fields may be added, and none is renamed: ignore fields that you do not know."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}


def document() -> Document:
    """The whole API as an OpenAPI 3.1 document.

    OWN_ACCOUNTS and OIDC_ISSUER in the environment decide as they do in the functions: without own
    accounts the document has none of their routes.
    """
    sys.path.insert(0, str(ROOT / "layers" / "common"))
    os.environ.setdefault("POWERTOOLS_METRICS_NAMESPACE", "UsageBilling")
    settings = importlib.import_module("billing.config").from_env(os.environ)
    merged: Document = {
        "openapi": "3.1.0",
        "info": _INFO,
        "paths": {},
        "components": {"schemas": {}, "securitySchemes": _security_schemes(settings)},
    }
    named = _all_security_schemes(settings.oidc_issuer)
    schemes = {name: HTTPBearer(type=SecuritySchemeType.http) for name in named}
    for name in FUNCTIONS:
        module = importlib.import_module(f"functions.{name}.app")
        schema = json.loads(module.app.get_openapi_json_schema(security_schemes=schemes))
        if not settings.own_accounts:
            _drop_own_accounts(schema, module.app)
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                generated = re.sub(r"\W", "_", path) + f"_{method}"
                operation["operationId"] = operation["operationId"].removesuffix(generated)
                _complete(operation, name)
            merged["paths"].setdefault(path, {}).update(operations)
        if schema["paths"]:
            merged["components"]["schemas"] |= schema["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError", "ResponseValidationError"):
        merged["components"]["schemas"].pop(unused, None)
    merged["paths"]["/webhooks/commet"] = _webhook()
    return merged


def render() -> str:
    """The document's text, as it is committed."""
    return json.dumps(document(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns 1 where the committed document is out of date, else 0."""
    parser = argparse.ArgumentParser(prog="python -m local.openapi", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", metavar="FILE", type=Path, help="write the document")
    action.add_argument(
        "--check", metavar="FILE", type=Path, help="fail where the document is out of date"
    )
    options = parser.parse_args(arguments)
    text = render()
    if options.write:
        options.write.write_text(text, encoding="utf-8")
        print(f"Wrote {options.write}.")
        return 0
    if not options.check.exists() or options.check.read_text(encoding="utf-8") != text:
        print(f"{options.check} is out of date. Run `make openapi` and commit it.", file=sys.stderr)
        return 1
    return 0


def _complete(operation: Document, function: str) -> None:
    """Adds to one operation its tag, and the problems that all operations can answer."""
    operation["tags"] = [TAGS[function]]
    statuses = ["429", "503"]
    if operation.get("security"):
        statuses.append("401")
    if "requestBody" in operation:
        statuses += ["400", "413", "415"]
    if "requestBody" in operation or operation.get("parameters"):
        statuses.append("422")
        if operation.get("parameters"):
            statuses.append("404")  # a name with characters that the route does not allow
    else:
        operation["responses"].pop("422", None)
    for status in statuses:
        operation["responses"].setdefault(status, _problem(status))
    for answer in operation["responses"].values():
        schemas = [each.get("schema", {}) for each in answer.get("content", {}).values()]
        if schemas and all(schema.get("type") == "null" for schema in schemas):
            del answer["content"]  # an answer without a body


def _problem(status: str) -> Document:
    found: Document = {"description": _MEANINGS[status], "content": copy.deepcopy(_PROBLEM)}
    if status in ("429", "503"):
        found["headers"] = _RETRY_AFTER
    return found


_MEANINGS = {
    "400": "The body is not UTF-8 text, or not JSON",
    "401": "The credentials are missing or not valid",
    "404": "Nothing has this name",
    "413": "The body is too large",
    "415": "The body is not application/json, or compressed",
    "422": "The request is not valid; `errors` name the fields",
    "429": "There were too many requests",
    "503": "The database or the billing provider does not answer; try again",
}


def _drop_own_accounts(schema: Document, app: Any) -> None:
    """Takes the routes of own accounts out of a function's schema, and sessions as credentials."""
    api = importlib.import_module("billing.http.api")
    for route in [*app._static_routes, *app._dynamic_routes]:  # noqa: SLF001 - there is no other list
        path = route.openapi_path
        if api.is_for_own_accounts(route.func):
            schema["paths"][path].pop(route.method.lower())
            if not schema["paths"][path]:
                del schema["paths"][path]
    for operations in schema["paths"].values():
        for operation in operations.values():
            kept = [each for each in operation.get("security", []) if "session" not in each]
            if kept:
                operation["security"] = kept


def _identity_token(issuer: str) -> Document:
    described = (
        "A token (JWT) of the product's identity provider, an ID token or an access token made for"
        " the audience of this API."
    )
    if issuer:
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        return {"type": "openIdConnect", "openIdConnectUrl": url, "description": described}
    return {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": f"{described} Only where the stack has an identity provider.",
    }


def _security_schemes(settings: Any) -> Document:
    schemes = _all_security_schemes(settings.oidc_issuer)
    if not settings.own_accounts:
        del schemes["session"]
    return schemes


def _all_security_schemes(issuer: str) -> Document:
    return {
        "session": {
            "type": "http",
            "scheme": "bearer",
            "description": "The token from a sign-up or sign-in, `ses_...`. Pages send the cookie"
            " instead.",
        },
        "identityToken": _identity_token(issuer),
        "serviceKey": {
            "type": "http",
            "scheme": "bearer",
            "description": "A key for the product's own backend, `svc_<name>_...`, with scopes.",
        },
    }


def _webhook() -> Document:
    return {
        "post": {
            "tags": ["Webhooks"],
            "operationId": "receive_webhook",
            "summary": "Receive a webhook from Commet",
            "description": (
                "Also at the root of the function's own URL. A webhook with a good signature is "
                "always answered 200, or 503 while the database does not answer."
            ),
            "parameters": [
                {
                    "name": "X-Commet-Signature",
                    "in": "header",
                    "required": True,
                    "description": "Hex HMAC-SHA256 of the raw body.",
                    "schema": {"type": "string"},
                }
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            "responses": {
                "200": {
                    "description": "The webhook was received",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["received", "outcome"],
                                "properties": {
                                    "received": {"type": "boolean", "const": True},
                                    "outcome": {
                                        "type": "string",
                                        "enum": [
                                            "applied",
                                            "duplicate",
                                            "failed",
                                            "ignored",
                                            "unreadable",
                                        ],
                                    },
                                },
                            }
                        }
                    },
                },
                **{status: _problem(status) for status in ("401", "413", "503")},
            },
        }
    }


if __name__ == "__main__":
    sys.exit(main())
