"""Whom the stand-in answers, at the wire: hosts it goes by, and changes that browsers ask for."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from standin.testing import StandIn, standin

PUBLIC = "https://pay.example.com:8443/commet"


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    """Behind a public address, and with a second name: what a proxy and a container see."""
    with standin(public_url=PUBLIC, allow_hosts=("commet", "192.168.7.7", "fd00::7")) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: StandIn) -> Iterator[httpx.Client]:
    """A client of the port itself, with the key."""
    address = server.base_url.removesuffix("/api/v1")
    with httpx.Client(base_url=address, headers={"x-api-key": server.api_key}) as client:
        yield client


# One of each kind: the API, what it does not know, control, the inspection page, hosted pages.
EVERYTHING = [
    ("GET", "/api/v1/customers"),
    ("POST", "/api/v1/customers"),
    ("GET", "/api/v1/nothing"),
    ("GET", "/_standin"),
    ("GET", "/_standin/state"),
    ("POST", "/_standin/clock"),
    ("GET", "/_standin/"),
    ("POST", "/_standin/ui/clock"),
    ("GET", "/checkout/ct_1"),
    ("GET", "/portal/ps_1"),
    ("GET", "/recover/rt_1"),
    ("GET", "/payment-method/t"),
    ("GET", "/invoices/t"),
    ("GET", "/healthz"),
    ("OPTIONS", "/api/v1/customers"),
    ("HEAD", "/healthz"),
    ("GET", "/nothing"),
]
WRITES = [
    ("POST", "/api/v1/customers"),
    ("PUT", "/api/v1/customers/usr_1"),
    ("PATCH", "/api/v1/webhooks/wh_1"),
    ("DELETE", "/api/v1/webhooks/wh_1"),
    ("POST", "/_standin/clock"),
    ("POST", "/_standin/reset"),
    ("DELETE", "/_standin/faults"),
    ("POST", "/_standin/ui/clock"),
    ("POST", "/checkout/ct_1"),
    ("POST", "/portal/ps_1/cancel"),
    ("POST", "/nothing"),
]


class TestHosts:
    @pytest.mark.parametrize(
        "host",
        [
            *("127.0.0.1", "127.0.0.1:1", "127.200.3.4:8100", "[::1]", "[::1]:8100"),
            *("localhost", "localhost:9", "LocalHost:9", "localhost.", "api.localhost:3001"),
            *("[0:0:0:0:0:0:0:1]:80", "pay.example.com", "PAY.example.com:1", "pay.example.com.:1"),
            *("commet", "Commet:3001", "192.168.7.7:3001", "[fd00::7]:3001", "[FD00:0::7]"),
        ],
    )
    def test_loopback_the_public_host_and_the_allowed_ones_are_answered(
        self, http: httpx.Client, host: str
    ) -> None:
        """On every port: the one outside of a container is not the one inside."""
        assert http.get("/api/v1/customers", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(("method", "path"), EVERYTHING)
    def test_every_address_is_closed_to_other_hosts(
        self, http: httpx.Client, method: str, path: str
    ) -> None:
        """A page whose name was pointed here reads nothing, not even that there is something."""
        answer = http.request(method, path, headers={"Host": "rebound.example:8100"})
        assert answer.status_code == 421
        if method != "HEAD":
            error = answer.json()["error"]
            assert error["code"] == "forbidden"
            assert "--allow-host rebound.example." in error["message"]

    @pytest.mark.parametrize(
        "host",
        [
            *("127.0.0.1.rebound.example", "localhost.rebound.example", "notlocalhost", "commet.x"),
            *("pay.example.com.rebound.example", "example.com", "128.0.0.1", "0.0.0.1", "[::2]"),
            *("192.168.7.8", "[::ffff:10.0.0.1]", "127.1", "2130706433", "0x7f.0.0.1", "[::1"),
            *("127.0.0.1@rebound.example", "rebound.example@127.0.0.1", "127.0.0.1:x", "::1"),
            *("127.0.0.1/", "127.0.0.1:80:80", "127.0.0.1 rebound.example", ".", "", "é.localhost"),
        ],
    )
    def test_what_only_resembles_one_of_them_is_refused(
        self, http: httpx.Client, host: str
    ) -> None:
        """Compared as a whole, never by how a name begins, nor as another spelling of it."""
        refused = http.get("/api/v1/customers", headers=[(b"Host", host.encode())])
        assert refused.status_code == 421

    def test_a_request_without_a_host_is_refused(self, http: httpx.Client) -> None:
        """HTTP/1.0 allows that."""
        with socket.create_connection(("127.0.0.1", http.base_url.port or 80)) as wire:
            wire.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert wire.makefile("rb").readline().split()[1] == b"421"

    def test_a_browser_is_shown_a_page(self, http: httpx.Client) -> None:
        """The name comes from outside, and no markup comes with it."""
        headers = {"Host": "rebound.example", "Accept": "text/html,*/*;q=0.8"}
        answer = http.get("/checkout/ct_1", headers=headers)
        assert answer.status_code == 421
        assert "--allow-host rebound.example" in answer.text
        assert answer.headers["Content-Type"].startswith("text/html")
        strange = http.get("/", headers=headers | {"Host": "<b>x</b>"})
        assert strange.status_code == 421
        assert "<b>" not in strange.text

    def test_a_refused_request_leaves_no_trace(self, http: httpx.Client) -> None:
        """It is not listed, and no rule that waits for a request is used up."""
        http.post("/_standin/faults", json={"action": {"status": 503}, "times": 1})
        before = http.get("/_standin/requests").json()
        assert http.get("/api/v1/plans", headers={"Host": "x"}).status_code == 421
        assert (
            http.post("/api/v1/usage/events", headers={"Origin": "null"}, json={}).status_code
            == 403
        )
        assert http.get("/_standin/requests").json() == before
        assert [rule["hits"] for rule in http.get("/_standin/faults").json()["data"]] == [0]
        assert http.delete("/_standin/faults").status_code == 200

    def test_without_options_only_this_machine_is_answered(self) -> None:
        with standin() as plain:
            for host, status in {"localhost": 200, "commet": 421, "pay.example.com": 421}.items():
                answer = httpx.get(f"{plain.public_url}/healthz", headers={"Host": host})
                assert answer.status_code == status, host


class TestOrigins:
    @pytest.mark.parametrize(("method", "path"), WRITES)
    @pytest.mark.parametrize(
        "sent",
        [
            {"Origin": "https://elsewhere.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
        ids=lambda sent: "-".join(*sent.items()),
    )
    def test_no_write_is_made_for_a_foreign_page(
        self, http: httpx.Client, method: str, path: str, sent: dict[str, str]
    ) -> None:
        """A form, a script or a frame without an origin, from wherever it is."""
        answer = http.request(method, path, headers=sent)
        assert answer.status_code == 403
        assert "Only pages of the stand-in" in answer.json()["error"]["message"]

    def test_the_clock_stays_where_it_is(self, http: httpx.Client) -> None:
        """A plain form post needs no permission of the browser's, so it must need one of ours."""
        form = {"count": "7", "unit": "day"}
        page = {"Origin": "http://127.0.0.1:5173", "Accept": "text/html", "Host": "127.0.0.1:8100"}
        answer = http.post("/_standin/ui/clock", data=form, headers=page)
        assert answer.status_code == 403
        assert "another site" in answer.text
        assert http.get("/_standin/clock").json()["moved"] is False

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            ("127.0.0.1:8100", "http://127.0.0.1:8100"),
            ("localhost:8100", "http://localhost:8100"),
            ("LOCALHOST:8100", "http://localhost:8100"),
            ("localhost", "http://localhost"),
            ("localhost:80", "http://localhost"),
            ("[::1]:8100", "http://[::1]:8100"),
            ("commet:3001", "http://commet:3001"),
            # Behind a proxy, which asks for the stand-in under a name of its own.
            ("127.0.0.1:8100", "https://pay.example.com:8443"),
            ("pay.example.com:8443", "https://pay.example.com:8443"),
        ],
    )
    def test_its_own_pages_may_write(self, http: httpx.Client, host: str, origin: str) -> None:
        """Past the door the token is unknown: that is the page's answer, not the guard's."""
        headers = {"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin"}
        assert http.post("/checkout/ct_unknown", headers=headers).status_code == 404

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            ("127.0.0.1:8100", "http://127.0.0.1:3000"),
            ("127.0.0.1:8100", "http://127.0.0.1"),
            ("127.0.0.1:8100", "https://127.0.0.1:8100"),
            ("127.0.0.1:8100", "http://localhost:8100"),
            ("localhost:8100", "http://127.0.0.1:8100"),
            ("localhost:8100", "http://x.localhost:8100"),
            ("localhost:443", "https://localhost"),
            ("pay.example.com:8443", "http://pay.example.com"),
            ("127.0.0.1:8100", "https://pay.example.com"),
            ("127.0.0.1:8100", "http://pay.example.com:8443"),
            ("127.0.0.1:8100", "http://127.0.0.1:8100.elsewhere.example"),
            ("127.0.0.1:8100", "http://127.0.0.1:8100@elsewhere.example"),
            ("127.0.0.1:8100", "file://127.0.0.1:8100"),
            ("127.0.0.1:8100", "127.0.0.1:8100"),
            ("127.0.0.1:8100", ""),
        ],
    )
    def test_another_port_scheme_or_name_is_another_site(
        self, http: httpx.Client, host: str, origin: str
    ) -> None:
        """As browsers see it: each may be another program."""
        answer = http.post("/checkout/ct_unknown", headers={"Host": host, "Origin": origin})
        assert answer.status_code == 403

    def test_a_browser_that_contradicts_itself_is_refused(self, http: httpx.Client) -> None:
        """Both headers have to say that the page is ours."""
        own = str(http.base_url).rstrip("/")
        headers = {"Origin": own, "Sec-Fetch-Site": "cross-site"}
        assert http.post("/_standin/clock", headers=headers).status_code == 403
        headers = {"Origin": "http://elsewhere.example", "Sec-Fetch-Site": "same-origin"}
        assert http.post("/_standin/clock", headers=headers).status_code == 403

    @pytest.mark.parametrize("site", ["same-origin", "none"])
    def test_what_the_person_at_the_browser_asks_for_is_done(
        self, http: httpx.Client, site: str
    ) -> None:
        """`none` is a form sent again by the reload button."""
        answer = http.post("/checkout/ct_unknown", headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 404

    def test_programs_send_no_origin_and_may_write(self, http: httpx.Client) -> None:
        """SDKs, curl, the product."""
        created = http.post("/api/v1/customers", json={"id": "usr_9", "email": "a@example.com"})
        assert created.status_code == 201
        assert http.post("/_standin/settle").status_code == 200

    def test_a_link_from_anywhere_opens_a_page(self, http: httpx.Client) -> None:
        """The shop's page leads to checkout, and the email to recovery."""
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert http.get("/checkout/ct_unknown", headers=headers).status_code == 404
        assert http.get("/_standin/", headers=headers).status_code == 200

    def test_no_answer_lets_a_foreign_page_read(self, http: httpx.Client) -> None:
        """Without permission in the answer, the browser keeps it from the page."""
        origin = {"Origin": "https://elsewhere.example"}
        asking = origin | {"Access-Control-Request-Method": "POST"}
        for method, path in EVERYTHING:
            answer = http.request(method, path, headers=asking if method == "OPTIONS" else origin)
            assert not [name for name in answer.headers if name.startswith("access-control")]

    @pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
    def test_a_usual_port_may_be_left_out(self, scheme: str, port: int) -> None:
        """As browsers do, whatever the command line says."""
        with standin(public_url=f"{scheme}://pay.example.com:{port}") as server:
            address = server.base_url.removesuffix("/api/v1")
            headers = {"Origin": f"{scheme}://pay.example.com"}
            assert httpx.post(f"{address}/checkout/x", headers=headers).status_code == 404

    def test_a_public_address_of_its_own_is_an_origin(self) -> None:
        """What a stand-in without `--public-url` tells as its own is where its pages are."""
        with standin() as plain:
            parts = urlsplit(plain.public_url)
            headers = {"Origin": f"{parts.scheme}://{parts.netloc}"}
            answer = httpx.post(f"{plain.public_url}/_standin/settle", headers=headers)
            assert answer.status_code == 200
