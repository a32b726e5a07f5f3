"""HTTP in and out, as an HTTP API and a function URL do it."""

import base64
import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from local.gateway.template import DEFAULT_ROUTE, HttpApi, Route, Template
from tests.e2e.gateway.conftest import FIXTURES, Served, answering, asking, serve

MIB = 1024 * 1024


class TestHttpApi:
    def test_an_unknown_route_is_a_404(self, served: Served) -> None:
        """In API Gateway's words."""
        for response in (served.get("/nope"), served.http.delete("/probe"), served.get("/probe/")):
            assert response.status_code == 404
            assert response.json() == {"message": "Not Found"}

    def test_the_default_route_takes_every_path(self, template: Template) -> None:
        """In an API without CORS: no answer carries its headers."""
        api = HttpApi((Route("ANY", DEFAULT_ROUTE, "Probe"),))
        with contextlib.contextmanager(serve)(replace(template, api=api)) as served:
            response = served.get("/any/thing", headers={"Origin": "http://b"})
            assert response.json()["event"]["rawPath"] == "/any/thing"
            assert response.json()["event"]["routeKey"] == "$default"
            assert "Access-Control-Allow-Origin" not in response.headers

    def test_binary_bodies_pass_unharmed(self, served: Served) -> None:
        """In both directions."""
        event = served.http.post("/probe", content=b"\x00\xff").json()["event"]
        assert event["isBase64Encoded"] is True
        assert base64.b64decode(event["body"]) == b"\x00\xff"
        answer = {"statusCode": 200, "body": "AP8=", "isBase64Encoded": True}
        assert served.get(params=answering(answer)).content == b"\x00\xff"

    def test_cookies_come_and_go(self, served: Served) -> None:
        """A list in the event, a header each in the response."""
        event = served.get(headers={"Cookie": "a=1; b=2"}).json()["event"]
        assert event["cookies"] == ["a=1", "b=2"]
        assert "cookie" not in event["headers"]
        answer = {"statusCode": 200, "cookies": ["x=1; HttpOnly", "y=2"]}
        response = served.get(params=answering(answer))
        assert response.headers.get_list("Set-Cookie") == ["x=1; HttpOnly", "y=2"]

    def test_the_source_is_the_peer_whatever_it_claims(self, served: Served) -> None:
        """And a tenant header means nothing here."""
        event = served.get(headers={"X-Forwarded-For": "9.9.9.9", "X-Amz-Tenant-Id": "t"}).json()
        assert event["event"]["requestContext"]["http"]["sourceIp"] == "127.0.0.1"
        assert event["event"]["headers"]["x-forwarded-for"] == "9.9.9.9, 127.0.0.1"

    def test_a_body_above_ten_megabytes_is_a_413(self, served: Served) -> None:
        """Below that, what Lambda itself takes decides."""
        text = {"Content-Type": "text/plain"}
        response = served.http.post("/probe", content=b"x" * (10 * MIB + 1), headers=text)
        assert (response.status_code, response.json()) == (
            413,
            {"message": "Request Entity Too Large"},
        )
        response = served.http.post("/probe", content=b"x" * (7 * MIB), headers=text)
        assert response.status_code == 413
        query = answering({"statusCode": 200})
        response = served.http.post("/probe", params=query, content=b"x" * (5 * MIB), headers=text)
        assert response.status_code == 200

    def test_a_preflight_is_answered_without_a_function(self, served: Served) -> None:
        """For a path no route has, too."""
        start = len(served.output.getvalue())
        response = served.http.options(
            "/wherever",
            headers={"Origin": "http://b", "Access-Control-Request-Method": "POST"},
        )
        assert response.status_code == 204
        assert response.headers["Access-Control-Allow-Origin"] == "http://b"
        assert response.headers["Access-Control-Allow-Methods"] == "GET,POST"
        assert served.output.getvalue()[start:] == ""

    def test_answers_of_the_gateway_itself_carry_cors_headers(self, served: Served) -> None:
        """Else a page could not even read that it failed."""
        response = served.get(params=asking("fail"), headers={"Origin": "http://b"})
        assert response.status_code == 500
        assert response.headers["Access-Control-Allow-Origin"] == "http://b"


class TestFunctionUrl:
    def test_every_path_and_method_reaches_the_function(self, served: Served) -> None:
        """With a function URL's own context."""
        url = served.gateway.function_url("Probe")
        event = httpx.post(f"{url}some/path?q=1", json={}).json()["event"]
        assert event["rawPath"] == "/some/path"
        assert event["requestContext"]["accountId"] == "anonymous"
        assert event["requestContext"]["domainName"].startswith("probe.lambda-url.")
        assert httpx.get(url).json()["event"]["rawPath"] == "/"

    def test_a_failure_is_a_502(self, served: Served) -> None:
        """Where an HTTP API would say 500."""
        response = httpx.get(served.gateway.function_url("Probe"), params=asking("fail"))
        assert (response.status_code, response.text) == (502, "Internal Server Error")

    def test_a_body_above_six_megabytes_is_a_413(self, served: Served) -> None:
        """A function URL has no more room than Lambda itself."""
        url = served.gateway.function_url("Probe")
        assert httpx.post(url, content=b"x" * (6 * MIB + 1)).status_code == 413

    def test_a_function_without_one_has_none(self, served: Served) -> None:
        """The path is then an unknown route."""
        assert served.get("/_url/Timer/").status_code == 404


@pytest.fixture
def narrow(template: Template) -> Iterator[Served]:
    """One worker per function, and no patience."""
    yield from serve(template, max_workers=1, queue_seconds=0.05)


def test_more_than_the_workers_can_take_is_a_503(narrow: Served, tmp_path: Path) -> None:
    """API Gateway's answer to a throttled function; a function URL says 429."""
    query = asking("rendezvous", place=tmp_path, wanted=2)
    busy = threading.Thread(target=lambda: narrow.get(params=query))
    busy.start()
    eventually(lambda: any(tmp_path.iterdir()))
    refused = narrow.get()
    assert (refused.status_code, refused.json()) == (503, {"message": "Service Unavailable"})
    assert httpx.get(narrow.gateway.function_url("Probe")).status_code == 429
    (tmp_path / "second").touch()
    busy.join()


class TestHotReload:
    """Edit, save, ask again."""

    @pytest.fixture
    def editable(self, template: Template, tmp_path: Path) -> Iterator[tuple[Served, Path]]:
        code, layer = tmp_path / "code", tmp_path / "layer"
        (layer / "shared").mkdir(parents=True)
        (layer / "shared/__init__.py").write_text("VERSION = 'one'\n")
        code.mkdir()
        probe = (FIXTURES / "functions/probe/app.py").read_text()
        (code / "app.py").write_text(probe)
        spec = replace(template.functions["Probe"], code=code, layers=(layer,))
        changed = replace(template, functions={**template.functions, "Probe": spec})
        for found in serve(changed):
            yield found, tmp_path

    def test_a_changed_layer_is_used(self, editable: tuple[Served, Path]) -> None:
        """A new worker, without a restart of the gateway."""
        served, place = editable
        before = served.get().json()
        (place / "layer/shared/__init__.py").write_text("VERSION = 'number two'\n")
        eventually(lambda: served.get().json()["layer"] == "number two")
        assert served.get().json()["pid"] != before["pid"]

    def test_broken_code_is_a_500_until_it_is_mended(self, editable: tuple[Served, Path]) -> None:
        """A syntax error costs no restart either."""
        served, place = editable
        good = (place / "code/app.py").read_text()
        assert served.get().status_code == 200
        (place / "code/app.py").write_text("def broken(:\n")
        eventually(lambda: served.get().status_code == 500)
        (place / "code/app.py").write_text(good)
        eventually(lambda: served.get().status_code == 200)

    def test_a_built_layer_is_found_too(self, editable: tuple[Served, Path]) -> None:
        """`sam build` puts packages under python/."""
        served, place = editable
        (place / "layer/python").mkdir()
        (place / "layer/shared").rename(place / "layer/python/shared")
        eventually(lambda: str(place / "layer/python") in served.get().json()["path"])


def eventually(condition: object, seconds: float = 20) -> None:
    """Waits for something that happens in another process."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_start_up_may_take_longer_than_the_function_may_run(
    template: Template, tmp_path: Path
) -> None:
    """INIT has a limit of its own, and one that is kept."""
    (tmp_path / "slow.py").write_text(
        "import time\ntime.sleep(0.6)\ndef handler(event, context):\n    return 'ready'\n"
    )
    spec = replace(
        template.functions["Impatient"],
        code=tmp_path,
        layers=(),
        handler="slow.handler",
        timeout_seconds=0.5,
    )
    changed = replace(template, functions={**template.functions, "Impatient": spec})
    with contextlib.contextmanager(serve)(changed) as served:
        assert served.get("/impatient").text == "ready"
        line = served.output.getvalue().splitlines()[-1]
        told = re.search(r"200 in (\d+) ms, (\d+) of them to start  id=", line)
        assert told, line
        assert int(told[1]) >= int(told[2]) >= 600
    with contextlib.contextmanager(serve)(changed, init_seconds=0.2) as served:
        assert served.get("/impatient").status_code == 500
        assert "INIT timed out" in served.output.getvalue()


def test_nothing_is_left_when_the_gateway_closes(template: Template, tmp_path: Path) -> None:
    """Workers, idle or busy, are gone and the port is free."""
    query = asking("rendezvous", place=tmp_path, wanted=2)
    for served in serve(template):
        address = f"{served.gateway.url}/probe"
        idle = served.get("/any").json()
        asker = threading.Thread(target=abandoned, args=(address, query))
        asker.start()
        eventually(lambda: any(tmp_path.iterdir()))
    asker.join()
    for pid in (idle["pid"], *(int(path.name) for path in tmp_path.iterdir())):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not Path(idle["environment"]["HOME"]).exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def abandoned(address: str, query: dict[str, str]) -> None:
    """A request whose server goes away."""
    with contextlib.suppress(httpx.HTTPError):
        httpx.get(address, params=query, timeout=30)
