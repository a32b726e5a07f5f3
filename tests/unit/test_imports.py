"""What a function loads when it starts: a cold start is designed, not measured after the fact."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUNCTIONS = sorted(app.parent.name for app in ROOT.glob("functions/*/app.py"))
# Powertools looks whether there is a botocore to tell its name to; that imports the package's empty
# top, a millisecond. Its session is what everything of it needs.
HEAVY = (
    *("httpx", "boto3", "botocore.session", "pydantic", "commet", "argon2", "zxcvbn", "psycopg"),
    *("jwt", "cryptography"),
)


@cache
def loaded(function: str, issuer: str = "", *, app: str = "app") -> frozenset[str]:
    """The heavy packages in a fresh interpreter after importing the function as Lambda does.

    `issuer` is the identity provider that the stack has. `app` is the file with the handler.
    """
    program = (
        f"import json, sys; import {app} as app; assert callable(app.handler);"
        f" print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    paths = [ROOT / "functions" / function, ROOT / "layers" / "common"]
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "POWERTOOLS_METRICS_NAMESPACE": "test",
            "POWERTOOLS_SERVICE_NAME": "test",
            "OIDC_ISSUER": issuer,
        },
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return frozenset(json.loads(ran.stdout))


def test_all_functions_are_looked_at() -> None:
    """Those of the design, and the one that registers the webhook, as the folders have them."""
    assert {"webhook", "track_usage", "migrate"} <= set(FUNCTIONS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nobody_loads_aws_or_the_sdk(function: str) -> None:
    """boto3 costs half a second and is needed by nobody at start; the SDK is for tests alone."""
    assert loaded(function) & {"boto3", "botocore.session", "commet"} == set()


@pytest.mark.parametrize(
    "function", ["webhook", "track_usage", "signup", "session", "account", "migrate", "pages"]
)
def test_who_calls_nobody_loads_no_client(function: str) -> None:
    """httpx is a fifth of a full start; a rare path that needs it imports it late."""
    assert "httpx" not in loaded(function)


@pytest.mark.parametrize("function", ["checkout", "portal", "reconcile", "deliver_usage"])
def test_who_calls_commet_in_most_requests_loads_the_client_at_once(function: str) -> None:
    """During INIT a function has a whole processor, and later only the share it pays for."""
    assert "httpx" in loaded(function)


def test_the_webhook_loads_least() -> None:
    """Commet waits ten seconds, cold start included: no validation, no password hashing."""
    assert loaded("webhook") == {"psycopg"}


@pytest.mark.parametrize(
    "function", [f for f in FUNCTIONS if f not in ("signup", "session", "account", "pages")]
)
def test_who_hashes(function: str) -> None:
    """Only signing up and in, and changing the password."""
    assert loaded(function) & {"argon2", "zxcvbn"} == set()


def test_the_operators_page_hashes_nothing() -> None:
    """It shares the folder of the pages. The password is checked by theirs."""
    heavy = {"argon2", "zxcvbn", "boto3", "botocore.session", "commet", "jwt", "cryptography"}
    assert loaded("pages", app="ops") & heavy == set()


def test_the_list_of_common_passwords_comes_late() -> None:
    """30,000 strings that only a sign-up needs."""
    assert "zxcvbn" not in loaded("signup")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_without_an_identity_provider_nobody_pays_for_one(function: str) -> None:
    """cryptography takes a quarter of a second."""
    assert loaded(function) & {"jwt", "cryptography"} == set()


def test_with_one_its_tokens_are_checked_at_once() -> None:
    """What checks them is in the snapshot. The functions without routes for people do without."""
    issuer = "https://id.example"
    assert loaded("track_usage", issuer) >= {"jwt", "cryptography", "httpx"}
    assert loaded("webhook", issuer) == {"psycopg"}
    assert loaded("track_usage", "no address") & {"jwt", "cryptography"} == set()
