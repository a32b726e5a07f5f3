"""The Commet client: what it sends, what it believes, how often it tries, and when it stops."""

import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from billing.commet.client import Commet
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable, Unavailable

SUBSCRIPTION = {
    "id": "sub_1",
    "status": "pending_payment",
    "plan": {"id": "pln_1", "name": "Pro"},
    "checkoutUrl": "https://pay.example/tok",
    "createdAt": "2026-09-01T10:00:00.000Z",
    "updatedAt": "2026-09-01T10:00:00.000Z",
    "livemode": False,
}
ENDPOINT = {
    "id": "whe_1",
    "url": "https://api.example/hook",
    "events": ["invoice.created"],
    "description": None,
    "isActive": True,
    "apiVersion": "2026-08-27",
    "createdAt": "2026-09-01T10:00:00.000Z",
    "livemode": False,
}
Answer = httpx.Response | Exception


def later(seconds: float = 10.0) -> Deadline:
    return Deadline.after(seconds)


def error(status: int, code: str, **headers: str) -> httpx.Response:
    body = {"error": {"type": "x", "code": code, "message": "secret words"}}
    return httpx.Response(status, json=body, headers={"x-request-id": "req_9", **headers})


def listing(*items: dict[str, Any], **more: Any) -> httpx.Response:
    return httpx.Response(200, json={"object": "list", "data": items, "hasMore": False} | more)


class Script:
    """Answers one request after the other and keeps them; the last answer repeats."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        self.keys = ["ck_sandbox_old", "ck_sandbox_new"]
        self.reads: list[bool] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def api_key(self, *, fresh: bool = False) -> str:
        self.reads.append(fresh)
        return self.keys[1 if fresh else 0]

    def client(self, *, live: bool = False) -> Commet:
        return Commet(
            "https://commet.example/api/v1/",
            self.api_key,
            live=live,
            transport=httpx.MockTransport(self),
            sleep=self.pauses.append,
            jitter=lambda: 0.5,
        )


def subscribe(commet: Commet, deadline: Deadline | None = None) -> Any:
    return commet.create_subscription(
        user_id="usr_1",
        plan_code="pro",
        billing_interval="monthly",
        success_url="https://app.example/",
        idempotency_key="checkout:usr_1:1",
        deadline=deadline or later(),
    )


class TestRequests:
    def test_create_subscription(self) -> None:
        """A write carries version, key and its idempotency key, and a body of known fields."""
        script = Script(httpx.Response(201, json=SUBSCRIPTION))
        answer = subscribe(script.client())
        (request,) = script.requests
        assert (request.method, str(request.url)) == (
            "POST",
            "https://commet.example/api/v1/subscriptions",
        )
        assert json.loads(request.content) == {
            "customerId": "usr_1",
            "planCode": "pro",
            "billingInterval": "monthly",
            "successUrl": "https://app.example/",
        }
        assert request.headers["commet-version"] == "2026-08-27"
        assert request.headers["x-api-key"] == "ck_sandbox_old"
        assert request.headers["idempotency-key"] == "checkout:usr_1:1"
        assert (answer.id, answer.checkout_url) == ("sub_1", "https://pay.example/tok")

    @pytest.mark.parametrize("hostile", ["a/b", "a?x=1", "a#b", "a b", "ü", "%2F", "a/../b"])
    def test_paths_are_quoted(self, hostile: str) -> None:
        """An id never becomes a path, a query or a fragment."""
        script = Script(httpx.Response(200, json=SUBSCRIPTION))
        script.client().subscription(hostile, later())
        (request,) = script.requests
        assert request.url.raw_path.startswith(b"/api/v1/subscriptions/")
        assert request.url.raw_path.count(b"/") == 4
        assert request.url.query == b""
        assert request.url.path == f"/api/v1/subscriptions/{hostile}"

    def test_an_empty_filter_is_refused(self) -> None:
        """It would list everybody and find a stranger."""
        script = Script(listing())
        with pytest.raises(ValueError, match="empty"):
            script.client().find_customer("", later())
        assert script.requests == []

    def test_usage_is_sent_as_it_was_stored(self) -> None:
        """The bytes of a body decide about its idempotency: they are not written anew."""
        body = '{"featureCode":"storage","value":1.50,  "customerId":"usr_1"}'
        script = Script(httpx.Response(200, json={"id": "evt_1", "livemode": False}))
        script.client().track_usage(body, idempotency_key="e:1", deadline=later())
        assert script.requests[0].content == body.encode()

    def test_an_endpoint_is_never_addressed_by_nothing(self) -> None:
        """An empty id is the path of the list."""
        script = Script(listing())
        with pytest.raises(ValueError, match="empty"):
            script.client().delete_webhook("", later())
        with pytest.raises(ValueError, match="empty"):
            script.client().update_webhook("", is_active=True, deadline=later())
        assert script.requests == []

    def test_deleting_what_is_gone(self) -> None:
        """Is done; any other refusal is not."""
        script = Script(error(404, "webhook_not_found"), error(403, "forbidden"))
        script.client().delete_webhook("whe_1/x", later())
        assert script.requests[0].url.raw_path == b"/api/v1/webhooks/whe_1%2Fx"
        with pytest.raises(CommetRefused, match="forbidden"):
            script.client().delete_webhook("whe_1", later())

    def test_changing_an_endpoint(self) -> None:
        """What is not given stays; the version we read is always asked for."""
        script = Script(httpx.Response(200, json=ENDPOINT))
        changed = script.client().update_webhook("whe_1", is_active=True, deadline=later())
        (request,) = script.requests
        assert (request.method, request.url.path) == ("PATCH", "/api/v1/webhooks/whe_1")
        assert json.loads(request.content) == {"isActive": True, "apiVersion": "2026-08-27"}
        assert (changed.id, changed.events, changed.is_active) == (
            "whe_1",
            ["invoice.created"],
            True,
        )

    def test_pages(self) -> None:
        """A list is read to its end."""
        one, two = ({"id": f"cus_{n}", "externalId": f"usr_{n}"} for n in "12")
        script = Script(listing(one, hasMore=True, nextCursor="c/1"), listing(two))
        found = script.client().find_customer("usr_2", later())
        assert found is not None
        assert found.id == "cus_2"
        assert [request.url.params.get("cursor") for request in script.requests] == [None, "c/1"]

    def test_a_list_without_end(self) -> None:
        """A cursor that goes round in circles is nonsense, not a loop."""
        script = Script(listing(hasMore=True, nextCursor="same"))
        with pytest.raises(CommetUnavailable) as caught:
            script.client().plans(later())
        assert caught.value.status == 502

    def test_somebody_else_is_not_found(self) -> None:
        """Commet that ignores the filter does not make us take the first customer there is."""
        script = Script(listing({"id": "cus_1", "externalId": "usr_other"}))
        assert script.client().find_customer("usr_1", later()) is None

    def test_no_active_subscription(self) -> None:
        """JSON null is an answer."""
        script = Script(httpx.Response(200, text="null"))
        assert script.client().active_subscription("usr_1", later()) is None


class TestRetries:
    @pytest.mark.parametrize(
        "trouble",
        [
            httpx.ConnectError("no"),
            httpx.ReadTimeout("slow"),
            httpx.RemoteProtocolError("cut"),
            httpx.Response(500, text="<html>"),
            httpx.Response(502, text=""),
            error(503, "internal_error"),
            error(408, "timeout"),
            error(409, "idempotency_in_progress"),
        ],
        ids=str,
    )
    def test_same_key_on_every_attempt(self, trouble: Answer) -> None:
        """Where the outcome is unknown it is tried again, as the same write."""
        script = Script(trouble, trouble, httpx.Response(200, json=SUBSCRIPTION))
        subscribe(script.client())
        assert len(script.requests) == 3
        assert {r.headers["idempotency-key"] for r in script.requests} == {"checkout:usr_1:1"}
        assert len({r.content for r in script.requests}) == 1
        assert script.pauses == [pytest.approx(0.3), pytest.approx(0.6)]

    def test_gives_up(self) -> None:
        """Three attempts, then the caller is told to come back; Commet's words stay inside."""
        script = Script(error(500, "internal_error"))
        with pytest.raises(CommetUnavailable) as caught:
            subscribe(script.client())
        assert len(script.requests) == 3
        assert (caught.value.status, caught.value.commet_code) == (503, "internal_error")
        assert caught.value.request_id == "req_9"
        assert "secret words" not in str(caught.value) + caught.value.detail

    def test_no_time_for_another(self) -> None:
        """The pause itself must fit the deadline."""
        script = Script(error(500, "internal_error"))
        with pytest.raises(CommetUnavailable):
            subscribe(script.client(), later(0.2))
        assert len(script.requests) == 1
        assert script.pauses == []

    def test_no_time_at_all(self) -> None:
        """Nothing is started that cannot be finished."""
        script = Script(httpx.Response(200, json=SUBSCRIPTION))
        with pytest.raises(CommetUnavailable):
            subscribe(script.client(), later(0))
        assert script.requests == []

    @pytest.mark.parametrize("status", [429, 503])
    def test_retry_after_is_honoured(self, status: int) -> None:
        """Exactly as long as asked for, where that fits."""
        script = Script(
            error(status, "rate_limited", **{"retry-after": "2"}),
            httpx.Response(200, json=SUBSCRIPTION),
        )
        subscribe(script.client())
        assert script.pauses == [2.0]

    def test_retry_after_that_is_too_long(self) -> None:
        """It ends the call at once, and the caller learns how long to wait."""
        script = Script(error(429, "rate_limited", **{"retry-after": "60"}))
        with pytest.raises(CommetUnavailable) as caught:
            subscribe(script.client())
        assert (len(script.requests), script.pauses) == (1, [])
        assert (caught.value.retry_after, caught.value.asked_retry_after) == (60, 60)

    @pytest.mark.parametrize("status", [429, 503])
    def test_deliveries_do_not_wait_here(self, status: int) -> None:
        """Being asked to wait ends the call: what waits is the whole stack, and not in threads."""
        script = Script(error(status, "rate_limited", **{"retry-after": "2"}))
        for send in (script.client().track_usage, script.client().replace_usage):
            with pytest.raises(CommetUnavailable) as caught:
                send("{}", idempotency_key="k", deadline=later())
            assert caught.value.asked_retry_after == 2
        assert (len(script.requests), script.pauses) == (2, [])

    def test_deliveries_are_tried_once(self) -> None:
        """An attempt that may have had an effect is not hidden behind a later one that had none."""
        script = Script(error(503, "down"))
        for send in (script.client().track_usage, script.client().replace_usage):
            with pytest.raises(CommetUnavailable):
                send("{}", idempotency_key="k", deadline=later())
        assert (len(script.requests), script.pauses) == (2, [])

    @pytest.mark.parametrize("value", [None, "0", "-3", "soon", "1.5", "9" * 5000])
    def test_429_without_a_usable_retry_after(self, value: str | None) -> None:
        """Commet's contract: only with Retry-After is it worth trying again."""
        headers = {} if value is None else {"retry-after": value}
        script = Script(error(429, "rate_limited", **headers))
        with pytest.raises(CommetUnavailable) as caught:
            subscribe(script.client())
        assert len(script.requests) == 1
        assert caught.value.asked_retry_after is None
        assert caught.value.commet_code == "rate_limited"


class TestBusinessAnswers:
    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (400, "validation_error"),
            (402, "included_limit_reached"),
            (403, "forbidden"),
            (404, "plan_not_found"),
            (409, "already_has_active_subscription"),
            (409, "idempotency_key_mismatch"),
            (410, "endpoint_deprecated"),
            (422, "plan_unavailable"),
        ],
    )
    def test_never_tried_again(self, status: int, code: str) -> None:
        """No is an answer: the code is kept, the message is not shown."""
        script = Script(error(status, code))
        with pytest.raises(CommetRefused) as caught:
            subscribe(script.client())
        assert len(script.requests) == 1
        assert (caught.value.commet_code, caught.value.commet_status) == (code, status)
        assert caught.value.request_id == "req_9"
        assert "secret words" not in str(caught.value) + caught.value.detail

    def test_the_old_flat_error(self) -> None:
        """Earlier versions of the API put the code at the top."""
        script = Script(httpx.Response(404, json={"success": False, "code": "plan_not_found"}))
        with pytest.raises(CommetRefused, match="plan_not_found"):
            subscribe(script.client())

    def test_a_rotated_key(self) -> None:
        """401 reads the key once more, and does not count as an attempt."""
        script = Script(error(401, "unauthorized"), httpx.Response(200, json=SUBSCRIPTION))
        subscribe(script.client())
        assert script.reads == [False, True]
        assert [r.headers["x-api-key"] for r in script.requests] == script.keys
        assert script.pauses == []

    def test_a_key_that_stays_wrong(self) -> None:
        """Once more is enough."""
        script = Script(error(401, "unauthorized"))
        with pytest.raises(CommetRefused, match="unauthorized"):
            subscribe(script.client())
        assert script.reads == [False, True]
        assert len(script.requests) == 2


NONSENSE = {
    "html": httpx.Response(200, text="<html>we moved</html>"),
    "nothing": httpx.Response(200, text=""),
    "no content": httpx.Response(204),
    "a list": httpx.Response(200, json=[SUBSCRIPTION]),
    "a number": httpx.Response(200, json=7),
    "null": httpx.Response(200, text="null"),
    "no id": httpx.Response(200, json={k: v for k, v in SUBSCRIPTION.items() if k != "id"}),
    "wrong type": httpx.Response(200, json=SUBSCRIPTION | {"plan": "pro"}),
    "other mode": httpx.Response(200, json=SUBSCRIPTION | {"livemode": True}),
    "mode as text": httpx.Response(200, json=SUBSCRIPTION | {"livemode": "no"}),
    "NUL": httpx.Response(200, json=SUBSCRIPTION | {"checkoutUrl": "a\x00b"}),
    "half a pair": httpx.Response(200, text=json.dumps(SUBSCRIPTION | {"status": "\ud800"})),
    "deep": httpx.Response(200, text="[" * 100_000),
    "a huge number": httpx.Response(200, text='{"a": 1e100000000}'),
    "an impossible one": httpx.Response(200, text='{"a": 1e99999999999999999999}'),
    "many digits": httpx.Response(200, text='{"a": ' + "9" * 5000 + "}"),
    "not UTF-8": httpx.Response(200, content=b'{"id": "\xff"}'),
    "a redirect": httpx.Response(302, headers={"location": "https://evil.example/"}),
    "a proxy's page": httpx.Response(404, text="<html>nginx</html>"),
    "an error that is text": httpx.Response(400, json={"error": "oops"}),
    "an error that is a list": httpx.Response(400, json=["oops"]),
}


class TestKey:
    @pytest.mark.parametrize("key", ["", "ck_live_SE\u00c7RET", "ck_live_SECRET more", "x" * 501])
    def test_one_that_cannot_be_a_key_never_leaves_the_house(self, key: str) -> None:
        """Neither sent nor quoted: an error's whole chain is logged."""
        sent: list[httpx.Request] = []

        def take(request: httpx.Request) -> httpx.Response:
            sent.append(request)
            return httpx.Response(200, content=b"null")

        client = Commet(
            "https://commet.test/api/v1",
            lambda *, fresh=False: key,  # noqa: ARG005
            live=False,
            transport=httpx.MockTransport(take),
        )
        with pytest.raises(CommetUnavailable) as caught:
            client.active_subscription("usr_1", later())
        assert sent == []
        assert "SECRET" not in "".join(traceback.format_exception(caught.value))

    def test_a_newline_behind_it_is_no_part_of_it(self) -> None:
        """The usual slip when a secret is pasted."""
        seen: list[str] = []

        def take(request: httpx.Request) -> httpx.Response:
            seen.append(request.headers["x-api-key"])
            return httpx.Response(200, content=b"null")

        client = Commet(
            "https://commet.test/api/v1",
            lambda *, fresh=False: "ck_sandbox_1\n",  # noqa: ARG005
            live=False,
            transport=httpx.MockTransport(take),
        )
        assert client.active_subscription("usr_1", later()) is None
        assert seen == ["ck_sandbox_1"]

    def test_a_secret_that_cannot_be_read(self) -> None:
        """One of the two errors the client promises, and no other."""

        def unreadable(*, fresh: bool = False) -> str:  # noqa: ARG001
            raise Unavailable

        client = Commet("https://commet.test", unreadable, live=False)
        with pytest.raises(CommetUnavailable):
            client.plans(later())

    def test_the_secret_of_an_endpoint_is_not_printed(self) -> None:
        """It is shown once, to who asks for it by name."""
        answer = httpx.Response(201, json=ENDPOINT | {"secretKey": "whsec_S3CRET"})
        made = Script(answer).client().create_webhook(
            url="https://api.example/hook", events=["invoice.created"], description="Ours.",
            idempotency_key="k", deadline=later(),
        )  # fmt: skip
        assert made.secret_key.get_secret_value() == "whsec_S3CRET"
        assert "S3CRET" not in f"{made!r} {made} {made.model_dump()} {made.model_dump_json()}"

    @pytest.mark.parametrize("secret", [{}, {"secretKey": ""}, {"secretKey": None}])
    def test_an_endpoint_without_a_secret(self, secret: dict[str, Any]) -> None:
        """Nothing it sends could ever be believed."""
        script = Script(httpx.Response(201, json=ENDPOINT | secret))
        with pytest.raises(CommetUnavailable):
            script.client().create_webhook(
                url="https://api.example/hook", events=["invoice.created"], description="Ours.",
                idempotency_key="k", deadline=later(),
            )  # fmt: skip

    def test_an_answer_in_the_wrong_shape_is_not_quoted(self) -> None:
        """It may hold the address of somebody's portal."""
        answer = httpx.Response(200, json={"portalUrl": ["https://portal.test/SECRET"]})
        client = Commet(
            "https://commet.test/api/v1",
            lambda *, fresh=False: "ck_sandbox_1",  # noqa: ARG005
            live=False,
            transport=httpx.MockTransport(lambda _: answer),
        )
        with pytest.raises(CommetUnavailable) as caught:
            client.create_portal_session(user_id="u", return_url="https://a", deadline=later())
        assert "SECRET" not in "".join(traceback.format_exception(caught.value))


class TestNonsense:
    @pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
    def test_is_never_success(self, answer: httpx.Response) -> None:
        """What was not promised is 502, once: nobody knows what happened."""
        script = Script(answer)
        with pytest.raises(CommetUnavailable) as caught:
            subscribe(script.client())
        assert len(script.requests) == 1
        assert (caught.value.status, caught.value.code) == (502, "billing_provider_error")

    @pytest.mark.parametrize(
        "answer",
        [httpx.Response(200, text="null"), httpx.Response(200, json={"data": {}}),
         httpx.Response(200, json={"object": "list"}), httpx.Response(200, json=[]),
         listing({"id": "x"}), httpx.Response(200, json={"data": [None]})],
        ids=range(6),
    )  # fmt: skip
    def test_lists(self, answer: httpx.Response) -> None:
        """A list that is none, or holds something else."""
        with pytest.raises(CommetUnavailable) as caught:
            Script(answer).client().plans(later())
        assert caught.value.status == 502

    def test_amounts_no_column_holds(self) -> None:
        """Such an allowance could not be recorded."""
        feature = {
            "code": "a", "name": "A", "type": "usage", "allowed": True, "livemode": False,
            "consumption": {
                "model": "metered", "includedUnits": 10**15,
                "period": {"start": "2026-09-01T00:00:00Z", "end": "2026-10-01T00:00:00Z"},
            },
        }  # fmt: skip
        with pytest.raises(CommetUnavailable):
            Script(listing(feature)).client().feature_access("usr_1", later())

    def test_a_key_of_the_other_mode(self) -> None:
        """A live stack that talks with a sandbox key would give access for nothing."""
        script = Script(httpx.Response(200, json=SUBSCRIPTION))
        with pytest.raises(CommetUnavailable):
            subscribe(script.client(live=True))

    def test_what_is_new_is_no_nonsense(self) -> None:
        """Unknown fields and values come without a new version."""
        answer = SUBSCRIPTION | {"status": "hibernating", "mood": {"x": [1]}}
        script = Script(httpx.Response(200, json=answer))
        assert subscribe(script.client()).status == "hibernating"


@contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something on a port that accepts connections and misbehaves."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # An error is a client that has had enough, which is the point.
            with connection, suppress(OSError):
                talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


class Drip:
    """Sends a text, then single bytes for a while: each sooner than any single read would end."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.to_the_end = False

    def __call__(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(self._text)
        for _ in range(150):
            time.sleep(0.02)
            connection.sendall(b"x")
        self.to_the_end = True


class Silence(Drip):
    """Says nothing for as long."""

    def __call__(self, connection: socket.socket) -> None:
        connection.settimeout(3)
        try:
            while connection.recv(65536):
                pass
        except TimeoutError:
            self.to_the_end = True


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class TestDeadline:
    @pytest.mark.parametrize(
        "talk",
        [
            Silence(b""),
            Drip(b"HTTP/1.1 200 "),
            Drip(HEAD + b"x-drip: "),
            Drip(HEAD + b"content-length: 100000\r\n\r\n"),
            Drip(HEAD + b"\r\n{"),
        ],
        ids=["silence", "status", "headers", "body", "body without a length"],
    )
    def test_kept(self, talk: Drip) -> None:
        """Whatever arrives, and however slowly, the client leaves when its time is over."""
        with server(talk) as url:
            commet = Commet(url, lambda *, fresh=False: "ck_x", live=False)  # noqa: ARG005
            with pytest.raises(CommetUnavailable):
                commet.subscription("sub_1", later(0.4))
        assert not talk.to_the_end

    def test_nobody_listens(self) -> None:
        """A refused connection is tried again, and then told."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        pauses: list[float] = []
        commet = Commet(
            f"http://127.0.0.1:{port}",
            lambda *, fresh=False: "ck_x",  # noqa: ARG005
            live=False,
            sleep=pauses.append,
        )
        with pytest.raises(CommetUnavailable):
            commet.subscription("sub_1", later())
        assert len(pauses) == 2

    def test_an_answer_that_is_cut(self) -> None:
        """Half an answer is none; the connection is not used again."""

        def talk(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(HEAD + b"content-length: 100\r\n\r\n{")

        with server(talk) as url:
            pauses: list[float] = []
            commet = Commet(url, lambda *, fresh=False: "ck_x", live=False, sleep=pauses.append)  # noqa: ARG005
            with pytest.raises(CommetUnavailable):
                commet.subscription("sub_1", later())
        assert len(pauses) == 2

    def test_a_good_answer_over_the_same_socket(self) -> None:
        """The watched transport still keeps connections: two calls, one connection."""
        opened = []

        def talk(connection: socket.socket) -> None:
            opened.append(connection)
            text = json.dumps(SUBSCRIPTION).encode()
            while connection.recv(65536):
                length = str(len(text)).encode()
                connection.sendall(HEAD + b"content-length: " + length + b"\r\n\r\n" + text)

        with server(talk) as url:
            commet = Commet(url, lambda *, fresh=False: "ck_x", live=False)  # noqa: ARG005
            for _ in range(2):
                assert commet.subscription("sub_1", later()).id == "sub_1"
            commet._http.close()
        assert len(opened) == 1

    def test_too_much(self) -> None:
        """An answer without end stops being read."""

        def talk(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(HEAD + b"\r\n")
            while True:
                connection.sendall(b" " * 1_000_000)

        with server(talk) as url:
            commet = Commet(url, lambda *, fresh=False: "ck_x", live=False)  # noqa: ARG005
            with pytest.raises(CommetUnavailable) as caught:
                commet.subscription("sub_1", later())
        assert caught.value.status == 502
