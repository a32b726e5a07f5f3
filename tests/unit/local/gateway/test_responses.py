"""What API Gateway makes of a function's answer."""

import base64
import gzip
import json

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from local.gateway.responses import (
    MalformedResponseError,
    apply_cors,
    from_function,
    is_preflight,
    preflight,
)
from local.gateway.template import Cors


def encoded(answer: object) -> bytes:
    return json.dumps(answer).encode()


class TestFromFunction:
    def test_status_headers_body_and_cookies_are_taken_over(self) -> None:
        """Each cookie becomes a Set-Cookie header of its own."""
        response = from_function(
            encoded(
                {
                    "statusCode": 201,
                    "headers": {"X-One": "1", "x-flag": True, "Content-Length": "999"},
                    "cookies": ["a=1; Path=/", "b=2"],
                    "body": "déjà",
                }
            )
        )
        assert response.status_code == 201
        assert response.get_data() == "déjà".encode()
        assert response.headers["X-One"] == "1"
        assert response.headers["x-flag"] == "true"
        assert response.headers.getlist("Set-Cookie") == ["a=1; Path=/", "b=2"]
        assert response.content_length == 6

    def test_without_a_content_type_the_body_is_plain_text(self) -> None:
        """Payload format 2.0 with a statusCode assumes no JSON."""
        response = from_function(encoded({"statusCode": 200, "body": "x"}))
        assert response.headers["Content-Type"] == "text/plain;charset=UTF-8"

    @pytest.mark.parametrize(
        ("answer", "body"), [({"a": 1}, b'{"a": 1}'), ("hi", b"hi"), (3, b"3")]
    )
    def test_an_answer_without_a_status_is_the_body(self, answer: object, body: bytes) -> None:
        """API Gateway then assumes 200 and JSON."""
        response = from_function(encoded(answer))
        assert (response.status_code, response.get_data()) == (200, body)
        assert response.headers["Content-Type"] == "application/json"

    def test_a_compressed_page_passes_as_it_is(self) -> None:
        """The browser unpacks it; the gateway leaves body and header alone."""
        packed = gzip.compress("<p>ü</p>".encode())
        response = from_function(
            json.dumps(
                {
                    "statusCode": 200,
                    "headers": {
                        "Content-Type": "text/html; charset=utf-8",
                        "Content-Encoding": "gzip",
                        "Content-Length": "1",
                    },
                    "body": base64.b64encode(packed).decode(),
                    "isBase64Encoded": True,
                }
            ).encode()
        )
        assert response.data == packed
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Content-Length"] == str(len(packed))

    def test_a_base64_body_is_decoded(self) -> None:
        """Binary answers travel as base64."""
        response = from_function(
            encoded({"statusCode": 200, "body": "AP8=", "isBase64Encoded": True})
        )
        assert response.get_data() == b"\x00\xff"

    @pytest.mark.parametrize(
        "payload",
        [
            b"not json",
            encoded({"statusCode": "soon"}),
            encoded({"statusCode": 99}),
            encoded({"statusCode": 200, "body": {"a": 1}}),
            encoded({"statusCode": 200, "body": "*", "isBase64Encoded": True}),
            encoded({"statusCode": 200, "headers": ["a"]}),
            encoded({"statusCode": 200, "headers": {"a": "b\r\nc: d"}}),
        ],
    )
    def test_a_malformed_answer_is_refused(self, payload: bytes) -> None:
        """The caller turns this into API Gateway's 500."""
        with pytest.raises(MalformedResponseError):
            from_function(payload)


def request(method: str = "GET", **headers: str) -> Request:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Request(EnvironBuilder(method=method, headers=named).get_environ())


SETTINGS = Cors(
    allow_origins=("https://a.example",),
    allow_methods=("GET", "POST"),
    allow_headers=("content-type",),
    expose_headers=("x-id",),
    max_age_seconds=60,
)


class TestCors:
    def test_a_preflight_from_an_allowed_origin_is_answered(self) -> None:
        """The settings of the API, and no body."""
        asked = request("OPTIONS", Origin="https://a.example", Access_Control_Request_Method="PUT")
        assert is_preflight(asked)
        response = preflight(asked, SETTINGS)
        assert response.status_code == 204
        assert dict(response.headers) == {
            "Access-Control-Allow-Origin": "https://a.example",
            "Access-Control-Allow-Methods": "GET,POST",
            "Access-Control-Allow-Headers": "content-type",
            "Access-Control-Max-Age": "60",
        }

    def test_a_preflight_from_elsewhere_gets_no_permission(self) -> None:
        """No header is what makes the browser refuse."""
        asked = request("OPTIONS", Origin="https://b.example", Access_Control_Request_Method="PUT")
        assert not dict(preflight(asked, SETTINGS).headers)

    def test_options_without_a_requested_method_is_an_ordinary_request(self) -> None:
        """It goes to a route, or to $default."""
        assert not is_preflight(request("OPTIONS", Origin="https://a.example"))

    def test_the_functions_own_cors_headers_are_replaced(self) -> None:
        """API Gateway ignores them once an API has CORS settings."""
        response = from_function(
            encoded({"statusCode": 200, "headers": {"access-control-allow-origin": "*"}})
        )
        apply_cors(request(Origin="https://a.example"), response, SETTINGS)
        assert response.headers.getlist("Access-Control-Allow-Origin") == ["https://a.example"]
        assert response.headers["Access-Control-Expose-Headers"] == "x-id"

        stranger = from_function(
            encoded({"statusCode": 200, "headers": {"access-control-allow-origin": "*"}})
        )
        apply_cors(request(Origin="https://b.example"), stranger, SETTINGS)
        assert "Access-Control-Allow-Origin" not in stranger.headers

    def test_credentials_are_allowed_only_where_set(self) -> None:
        """A wildcard origin stays a wildcard."""
        response = from_function(encoded({"statusCode": 200}))
        anyone = Cors(allow_origins=("*",), allow_credentials=True)
        apply_cors(request(Origin="https://b.example"), response, anyone)
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
