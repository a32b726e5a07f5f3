"""Builds the OpenAPI document.

Each function describes its own routes, and this module merges them into one document. It describes
the webhook's route itself, because the webhook function has no router.
"""

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer, SecuritySchemeType

from billing.config import from_env
from billing.http import api, api_reference
from billing.http.shapes.problems import Problem
from local.openapi import ROOT, event_types, operations
from local.openapi.examples import tidy

Document = dict[str, Any]

_TAGS = {
    "signup": "Accounts",
    "session": "Accounts",
    "account": "Accounts",
    "checkout": "Plans and checkout",
    "portal": "Portal and invoices",
    "dashboard": "Users and dashboard",
    "track_usage": "Usage",
    "events": "Events",
}
_TAG_WORDS = {
    "Accounts": "Sign-up, sign-in, and a person's own account.",
    "Plans and checkout": "What is sold, and how a user buys it or changes the plan.",
    "Portal and invoices": "The portal of the billing provider, and what works without it.",
    "Users and dashboard": "The users of a product, what they used, and what the stack says.",
    "Usage": "Report, check, reserve, correct and export usage.",
    "Events": "What became true of users: read it, or have it posted to your product.",
    "Pages": "Pages for people, and the description of this API.",
    "Webhooks": "What the billing provider sends to the stack.",
}
_INFO = {
    "title": "Usage billing",
    "version": "1",
    "description": (
        "Usage-based billing through Commet. Quantities and money are decimal strings, times are"
        " ISO-8601 UTC. Every error of ours is a problem document (RFC 9457) whose `code` is"
        " stable: each code is explained at `/docs/problems`. Fields and codes may be added, and"
        " none is renamed: ignore fields that you do not know."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}
_SERVERS = [
    {"url": "http://127.0.0.1:3000", "description": "`make run` on this machine"},
    {
        "url": "https://{host}",
        "description": "A deployed stack: the output `ApiUrl` of `make deploy`",
        "variables": {
            "host": {
                "default": "abc123.execute-api.eu-central-1.amazonaws.com",
                "description": "The API's own name, or your domain.",
            }
        },
    },
]
_SECURITY_SCHEMES: Document = {
    "session": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token from a sign-up or sign-in, `ses_...`. Pages send the cookie"
        " instead.",
    },
    "identityToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token (JWT) of the product's identity provider, an ID token or an access"
        " token made for the audience of this API. Only where the stack has an identity provider.",
    },
    "serviceKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key for the product's own backend, `svc_<name>_...`, with scopes.",
    },
}
# Powertools' schemas for its own form of a 422.
_UNUSED = ("HTTPValidationError", "ValidationError", "ResponseValidationError")
_GATEWAY_ERROR = {
    "type": "object",
    "description": "What API Gateway answers by itself. It is no problem document.",
    "properties": {
        "message": {
            "type": "string",
            "description": "What is the matter, for people.",
            "examples": ["Too Many Requests"],
        }
    },
}


def document() -> Document:
    """Returns the whole API as an OpenAPI 3.1 document, for a stack with all routes."""
    os.environ.setdefault("POWERTOOLS_METRICS_NAMESPACE", "UsageBilling")
    schemes = {name: HTTPBearer(type=SecuritySchemeType.http) for name in _SECURITY_SCHEMES}
    described = {
        name: (app, json.loads(app.get_openapi_json_schema(security_schemes=schemes)))
        for name, app in _routers()
    }
    components = _schemas(schema for _, schema in described.values())
    paths: Document = {}
    for name, (app, schema) in described.items():
        for path, method, handler in _routes(app):
            operation = schema["paths"][path][method]
            operation["tags"] = [_tag(name, handler)]
            if api.is_for_own_accounts(handler):
                operation[api_reference.OWN_ACCOUNT] = True
            operations.complete(operation, method, handler, components)
            paths.setdefault(path, {})[method] = operation
    paths["/webhooks/commet"] = _webhook()
    webhooks = {kind: _event(kind, components) for kind in event_types.MODELS}
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": _SERVERS,
        "tags": _tags(paths | webhooks),
        "security": [],
        "paths": dict(sorted(paths.items())),
        "webhooks": webhooks,
        "components": {
            "schemas": dict(sorted(components.items())),
            "examples": operations.problem_examples(),
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def render(env: Mapping[str, str]) -> str:
    """Returns the text of the document for a stack with the settings in `env`."""
    settings = from_env(env)
    found = api_reference.adapted(
        document(), own_accounts=settings.own_accounts, issuer=settings.oidc_issuer
    )
    return as_text(found)


def as_text(found: Document) -> str:
    """A document's text, for people."""
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _routers() -> Iterator[tuple[str, Any]]:
    """Yields the functions that have a router, by the name of their folder."""
    for place in sorted(ROOT.glob("functions/*/app.py")):
        if "api.resolver(" in place.read_text(encoding="utf-8"):
            name = place.parent.name
            yield name, importlib.import_module(f"functions.{name}.app").app


def _routes(app: Any) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Yields path, method and handler of each route of a router."""
    for route in [*app._static_routes, *app._dynamic_routes]:  # noqa: SLF001 - there is no other list
        yield route.openapi_path, route.method.lower(), route.func


def _schemas(described: Iterator[Document]) -> dict[str, Document]:
    found: dict[str, Document] = {"GatewayError": _GATEWAY_ERROR, **_problem_schemas()}
    for schema in described:
        found |= schema.get("components", {}).get("schemas", {})
    for name in _UNUSED:
        found.pop(name, None)
    for schema in found.values():
        tidy(schema)
    return found


def _problem_schemas() -> dict[str, Document]:
    template = "#/components/schemas/{model}"
    schema: Document = Problem.model_json_schema(mode="serialization", ref_template=template)
    return {**schema.pop("$defs"), "Problem": schema}


def _tag(function: str, handler: Callable[..., Any]) -> str:
    if api.is_page(handler):
        return "Pages"
    return _TAGS.get(function, function.replace("_", " ").capitalize())


def _tags(paths: Mapping[str, Document]) -> list[Document]:
    used = {tag for path in paths.values() for each in path.values() for tag in each["tags"]}
    listed = [*_TAG_WORDS, *sorted(used - _TAG_WORDS.keys())]
    return [
        {"name": tag, "description": _TAG_WORDS.get(tag, f"Routes of the function {tag}.")}
        for tag in listed
        if tag in used
    ]


def _webhook() -> Document:
    problems = {
        "bad_signature", "payload_too_large", "not_found", "database_unavailable", "unavailable",
    }  # fmt: skip
    reference = {"$ref": "#/components/schemas/GatewayError"}
    gateway = {
        str(status): operations.gateways_own(status)
        | {"content": {"application/json": {"schema": reference}}}
        for status in (429, 500)
    }
    answers = {"200": _webhook_answer()} | operations.problem_answers(problems) | gateway
    return {
        "post": {
            "tags": ["Webhooks"],
            "operationId": "receiveCommetWebhook",
            "summary": "Receive a webhook from Commet",
            "description": (
                "Receive a webhook from Commet. Also at the root of the function's own URL. A"
                " webhook with a good signature is always answered 200, or 503 while the database"
                " does not answer. The route can be switched off (`WebhookOnApi`)."
            ),
            "security": [],
            "parameters": [
                {
                    "name": "X-Commet-Signature",
                    "in": "header",
                    "required": True,
                    "description": "Hex HMAC-SHA256 of the raw body.",
                    "schema": {"type": "string"},
                    "example": "5d41402abc4b2a76b9719d911017c592ae2f6c1d5d41402abc4b2a76b9719d91",
                }
            ],
            "requestBody": {
                "required": True,
                "description": "The event, as Commet documents it.",
                "content": {
                    "application/json": {
                        "schema": {"type": "object"},
                        "example": {
                            "event": "subscription.activated",
                            "data": {"subscriptionId": "sub_3Vx9", "customerId": "usr_8f2c"},
                        },
                    }
                },
            },
            "responses": dict(sorted(answers.items())),
        }
    }


def _event(kind: str, components: Document) -> Document:
    """Describes the request that an endpoint gets for an outgoing event of this type, and its
    answer.
    """
    schema = event_types.schema(kind)
    definitions = schema.pop("$defs", {})
    # Inside of this document an `$id` would give the references another base.
    del schema["$schema"], schema["$id"]
    text = json.dumps(schema).replace("#/$defs/", "#/components/schemas/")
    components.update(definitions)
    name = f"{kind.title().replace('.', '').replace('_', '')}Event"
    components[name] = json.loads(text)
    headers = (
        ("webhook-id", "The event's id.", "0d3f6f0a-5f0c-4d3c-9a57-2f1e7c1b9d11"),
        ("webhook-timestamp", "When it was signed, in seconds since 1970.", "1772357400"),
        ("webhook-signature", "Signatures, separated by spaces.", "v1,K5oZfzN95Z9UVu1EsfQmfVNQ"),
    )
    return {
        "post": {
            "tags": ["Events"],
            "operationId": f"on{name}",
            "summary": kind,
            "description": (
                f"{schema['description']} Sent to the endpoints that want the type, signed after"
                " Standard Webhooks. An event may come twice, with the same id."
            ),
            "security": [],
            "parameters": [
                {
                    "name": header,
                    "in": "header",
                    "required": True,
                    "description": words,
                    "schema": {"type": "string"},
                    "example": example,
                }
                for header, words, example in headers
            ],
            "requestBody": {
                "required": True,
                "description": "A CloudEvent.",
                "content": {
                    "application/cloudevents+json": {
                        "schema": {"$ref": f"#/components/schemas/{name}"}
                    }
                },
            },
            "responses": {
                "2XX": {"description": "The event was taken."},
                "410": {"description": "The endpoint wants no more events: it is switched off."},
                "default": {"description": "The event is sent again later."},
            },
        }
    }


def _webhook_answer() -> Document:
    outcomes = ["applied", "duplicate", "failed", "ignored", "unreadable"]
    return {
        "description": "The webhook was received",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["received", "outcome"],
                    "properties": {
                        "received": {
                            "type": "boolean",
                            "const": True,
                            "description": "Always true.",
                        },
                        "outcome": {
                            "type": "string",
                            "enum": outcomes,
                            "description": "What became of the webhook.",
                        },
                    },
                },
                "example": {"received": True, "outcome": "applied"},
            }
        },
    }
