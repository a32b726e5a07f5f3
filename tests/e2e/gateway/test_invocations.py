"""What a function meets, and what its caller gets when things go wrong.

Everything here holds under AWS's own runtime client and under ours.
"""

import contextlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from local.gateway.journal import Journal, about
from local.gateway.template import Template
from tests.e2e.gateway.conftest import Served, answering, asking, serve


def test_a_function_answers_through_the_front_door(either_client: Served) -> None:
    """Event in, response out, the layer importable, the context filled."""
    response = either_client.get("/items/42", params={"a": "1"})
    assert response.status_code == 200
    seen = response.json()
    assert seen["event"]["pathParameters"] == {"id": "42"}
    assert seen["event"]["routeKey"] == "GET /items/{id}"
    assert seen["event"]["requestContext"]["requestId"] == response.headers["apigw-requestid"]
    assert seen["layer"] == "one"
    assert seen["arn"] == "arn:aws:lambda:us-east-1:123456789012:function:Probe"
    assert 0 < seen["remaining"] <= 5000
    assert Path(seen["cwd"]).name == "probe"


def test_a_warm_worker_is_used_again(either_client: Served) -> None:
    """Module state survives from one invocation to the next."""
    first, second = (either_client.get().json() for _ in range(2))
    assert second["pid"] == first["pid"]
    assert second["calls"] == first["calls"] + 1
    assert second["request_id"] != first["request_id"]


def test_an_exception_is_a_500_that_tells_nothing(either_client: Served) -> None:
    """And the worker lives on, as in Lambda."""
    before = either_client.get().json()["pid"]
    response = either_client.get(params=asking("fail"))
    assert response.status_code == 500
    assert response.json() == {"message": "Internal Server Error"}
    assert "asked to fail" in either_client.output.getvalue()
    assert either_client.get().json()["pid"] == before


def test_a_process_that_ends_is_a_500_and_is_replaced(either_client: Served) -> None:
    """The next request finds a new worker."""
    before = either_client.get().json()["pid"]
    assert either_client.get(params=asking("end")).status_code == 500
    assert "Runtime.ExitError" in either_client.output.getvalue()
    assert either_client.get().json()["pid"] != before


def test_a_function_past_its_timeout_is_killed(either_client: Served) -> None:
    """500, a line in the log, and a new worker next time."""
    before = either_client.get("/impatient").json()["pid"]
    response = either_client.get("/impatient", params=asking("wait", seconds=20))
    assert response.status_code == 500
    assert "Task timed out after 1.00 seconds" in either_client.output.getvalue()
    assert either_client.get("/impatient").json()["pid"] != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_a_handler_that_cannot_be_imported_is_a_500(either_client: Served) -> None:
    """The reason is in the log, never in the answer."""
    assert either_client.get("/broken").json() == {"message": "Internal Server Error"}
    assert "No module named 'missing'" in either_client.output.getvalue()


@pytest.mark.parametrize("answer", [{"statusCode": "soon"}, {"statusCode": 200, "body": {}}])
def test_a_malformed_answer_is_a_500(either_client: Served, answer: object) -> None:
    """API Gateway does not pass on what it does not understand."""
    assert either_client.get(params=answering(answer)).status_code == 500


def test_an_answer_with_no_json_form_is_a_500(either_client: Served) -> None:
    """The worker reports it and lives on."""
    assert either_client.get(params=asking("unserialisable")).status_code == 500
    assert either_client.get().status_code == 200


def test_an_answer_above_six_megabytes_is_a_500(either_client: Served) -> None:
    """Just below it is served."""
    limit = 6 * 1024 * 1024
    too_much = either_client.get(params=asking("large", bytes=limit + 100))
    assert too_much.status_code == 500
    assert "Function.ResponseSizeTooLarge" in either_client.output.getvalue()
    response = either_client.get(params=asking("large", bytes=limit))
    assert response.status_code == 200
    assert len(response.content) == limit


def test_requests_run_in_parallel(either_client: Served, tmp_path: Path) -> None:
    """Three invocations that wait for one another, each in a process of its own."""
    query = asking("rendezvous", place=tmp_path, wanted=3)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: either_client.get(params=query), range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.text for answer in answers}) == 3


def test_what_a_function_prints_stands_before_the_line_of_its_request(
    either_client: Served,
) -> None:
    """Standard output and error alike, with the function's name; then who asked for what."""
    start = len(either_client.output.getvalue())
    answer = either_client.get(params=asking("say", text="hello"))
    lines = either_client.output.getvalue()[start:].splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["Probe"] * 3
    assert lines[0].endswith("said hello")
    assert lines[1].endswith("and to stderr")
    asked, _, request_id = lines[2].partition("  id=")
    assert re.fullmatch(r"Probe +GET /probe 204 in \d+ ms", asked)
    assert request_id == answer.headers["apigw-requestid"]


def test_the_id_of_an_answer_finds_its_traceback(template: Template, tmp_path: Path) -> None:
    """Also of a function that could not be loaded; and nothing of any other request."""
    with contextlib.contextmanager(serve)(template) as served:
        served.gateway.log.journal = Journal(tmp_path)
        failed = served.get(params=asking("fail")).headers["apigw-requestid"]
        said = served.get(params=asking("say", text="hello")).headers["apigw-requestid"]
        broken = served.get("/broken").headers["apigw-requestid"]
        served.gateway.log.journal.close()
        text = {
            each: "\n".join(entry.text for entry in about(tmp_path, each))
            for each in (failed, said, broken)
        }
    assert "asked to fail" in text[failed]
    assert "in fail" in text[failed]
    assert "GET /probe 500 in" in text[failed]
    assert "hello" not in text[failed]
    assert "said hello" in text[said]
    assert "asked to fail" not in text[said]
    assert "No module named 'missing'" in text[broken]


def test_what_a_function_prints_stands_before_its_report(either_client: Served) -> None:
    """Whoever invokes a function directly has no request, so the measures stand there."""
    start = len(either_client.output.getvalue())
    query = asking("say", text="hello")
    either_client.gateway.invoke("Probe", {"queryStringParameters": query})
    lines = either_client.output.getvalue()[start:].splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["Probe"] * 3
    assert lines[1].endswith("and to stderr")
    assert "REPORT RequestId: " in lines[2]
    assert "Max Memory Used: " in lines[2]
    assert "Init Duration" not in lines[2]
