"""The API describes itself: /openapi.json, the reference page, and the page about problems."""

import base64
import gzip
import hashlib
import json
import re
from typing import Any

import pytest

from billing.config import Misconfigured, from_env
from local.openapi.problem_guide import GUIDES
from tests.integration.functions.calling import Answer, call, start
from tests.unit.cloudformation import ROOT

pytestmark = pytest.mark.handlers

FOLDER = ROOT / "functions" / "dashboard" / "reference"
# As npm has them in swagger-ui-dist 5.35.0: swagger-ui-bundle.js and swagger-ui.css.
VENDORED = {
    "swagger-ui-5.35.0.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui-5.35.0.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


@pytest.fixture(autouse=True)
def function(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    start(monkeypatch, database_url, [], {})


def switched(patch: pytest.MonkeyPatch, database_url: str, **variables: str) -> None:
    start(patch, database_url, [], variables)


def text(answer: Answer) -> str:
    """The body, which the function hands to API Gateway in base64."""
    return base64.b64decode(answer.text).decode()


def document() -> dict[str, Any]:
    answer = call("GET", "/openapi.json")
    assert answer.status == 200
    found: dict[str, Any] = answer.json
    return found


class TestDocument:
    def test_it_is_that_of_the_repository(self) -> None:
        """But for its server, which is the stack itself."""
        committed = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
        found = document()
        assert [server["url"] for server in found.pop("servers")] == ["/"]
        committed.pop("servers")
        assert found == committed

    def test_a_stack_without_own_accounts(
        self, monkeypatch: pytest.MonkeyPatch, database_url: str
    ) -> None:
        """It describes what it has: no sign-up, and tokens of its provider."""
        issuer = "https://id.example/"
        switched(
            monkeypatch, database_url, OWN_ACCOUNTS="false", OIDC_ISSUER=issuer, OIDC_AUDIENCE="a"
        )
        found = document()
        assert "/signup" not in found["paths"]
        assert set(found["components"]["securitySchemes"]) == {"identityToken", "serviceKey"}
        assert '"session":' not in json.dumps(found["paths"])

    def test_it_is_compressed_for_who_takes_that(self) -> None:
        answer = call("GET", "/openapi.json", accept_encoding="gzip, br")
        assert answer.headers["content-encoding"] == "gzip"
        assert json.loads(gzip.decompress(base64.b64decode(answer.text)))["openapi"] == "3.1.0"


class TestPages:
    def test_the_reference_page(self) -> None:
        """Scripts and styles of its own address, and none within the page."""
        answer = call("GET", "/docs")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        page = text(answer)
        assert "http" not in re.sub(r"https?://www\.w3\.org\S*", "", page)
        assert not re.search(r"<style|style=|<script>|\son\w+=", page)
        sources = re.findall(r'(?:src|href)="(docs/[^"]+)"', page)
        assert sources
        for source in sources:
            assert call("GET", f"/{source}").status == 200, source

    def test_every_problem_has_its_place(self) -> None:
        """To which the `type` of the problem links."""
        page = text(call("GET", "/docs/problems"))
        for code in GUIDES:
            assert f'<section id="{code}">' in page
        kind = call("GET", "/nowhere").json["type"]
        assert kind == "/docs/problems#not_found"
        path, _, fragment = kind.partition("#")
        assert f'id="{fragment}"' in text(call("GET", path))

    def test_files_of_others_are_kept_for_good(self) -> None:
        """Their name has their version. Our own change with a deployment."""
        for name in VENDORED:
            assert "immutable" in call("GET", f"/docs/{name}").headers["cache-control"]
        assert "immutable" not in call("GET", "/docs/start.js").headers["cache-control"]

    def test_files_are_compressed_for_who_takes_that(self) -> None:
        answer = call("GET", "/docs/swagger-ui-5.35.0.js", accept_encoding="gzip")
        body = base64.b64decode(answer.text)
        assert (answer.headers["content-encoding"], answer.headers["vary"]) == (
            "gzip",
            "Accept-Encoding",
        )
        assert gzip.decompress(body) == (FOLDER / "swagger-ui-5.35.0.js").read_bytes()
        assert len(body) < 600_000

    @pytest.mark.parametrize(
        "name", ["nothing.js", "openapi.json", "..", "..%2Fapp.py", "app.py", "LICENSE.swagger-ui"]
    )
    def test_nothing_else_is_sent(self, name: str) -> None:
        assert call("GET", f"/docs/{name}").code in ("not_found", "invalid_request")

    def test_no_database_is_needed(
        self, monkeypatch: pytest.MonkeyPatch, database_url: str
    ) -> None:
        """The page explains an outage, too."""
        switched(monkeypatch, database_url, DATABASE_HOST="127.0.0.1", DATABASE_PORT="1")
        assert call("GET", "/docs/problems").status == 200
        assert call("GET", "/openapi.json").status == 200


class TestSwitchedOff:
    @pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/problems", "/docs/start.js"])
    def test_it_is_not_there(
        self, path: str, monkeypatch: pytest.MonkeyPatch, database_url: str
    ) -> None:
        """`ApiReference=false`: as if there were no such route."""
        switched(monkeypatch, database_url, API_REFERENCE="false")
        assert call("GET", path).code == "not_found"

    def test_any_other_value_is_refused(self) -> None:
        with pytest.raises(Misconfigured, match="API_REFERENCE"):
            from_env({"API_REFERENCE": "no"})


@pytest.mark.parametrize("name", VENDORED)
def test_files_of_others_are_unchanged(name: str) -> None:
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == VENDORED[name]
