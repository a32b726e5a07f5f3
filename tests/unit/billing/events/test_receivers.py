"""Calls to endpoints: over real sockets, to checked addresses only, and never for long."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from billing.deadline import Deadline
from billing.events.receivers import Answer, Receivers, Resolve, resolve
from tests.http_server import Request, Response, serving

Serve = Callable[[socket.socket], None]


def post(
    url: str,
    *,
    allow_loopback: bool = True,
    using: Resolve = resolve,
    seconds: float = 10,
    trusted: ssl.SSLContext | None = None,
) -> Answer:
    receivers = Receivers(allow_loopback=allow_loopback, resolve=using, trusted=trusted)
    try:
        return receivers.post(url, {"webhook-id": "1"}, b"{}", Deadline.after(seconds))
    finally:
        receivers.close()


def read_all(connection: socket.socket) -> None:
    """Reads the request of `post` to its end: who closes before resets the connection."""
    came = b""
    while not came.endswith(b"{}"):
        part = connection.recv(65536)
        if not part:
            return
        came += part


@contextmanager
def listening(serve: Serve) -> Iterator[int]:
    """The port of a server that hands each connection to `serve`, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=closing, args=(connection,), daemon=True).start()

        def closing(connection: socket.socket) -> None:
            with connection:
                serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 204, 299])
    def test_2xx_takes_the_event(self, status: int) -> None:
        with serving(lambda _: Response(status=status)) as url:
            answer = post(url)
        assert (answer.status, answer.reason) == (status, None)

    @pytest.mark.parametrize(
        ("status", "reason"), [(302, "redirect"), (308, "redirect"), (400, "status")]
    )
    def test_any_other_status_does_not(self, status: int, reason: str) -> None:
        with serving(lambda _: Response(status=status)) as url:
            answer = post(url)
        assert (answer.status, answer.reason) == (status, reason)

    def test_headers_and_body_arrive(self) -> None:
        came: list[Request] = []

        def take(request: Request) -> Response:
            came.append(request)
            return Response()

        with serving(take) as url:
            post(f"{url}/hooks?tenant=1")
        (request,) = came
        assert (request.method, request.path, request.body) == ("POST", "/hooks?tenant=1", b"{}")
        assert request.headers["webhook-id"] == "1"
        assert request.headers["user-agent"] == "usage-billing"

    def test_a_redirect_is_not_followed(self) -> None:
        followed: list[Request] = []

        def trap(request: Request) -> Response:
            followed.append(request)
            return Response()

        with serving(trap) as target:

            def redirect(connection: socket.socket) -> None:
                read_all(connection)
                connection.sendall(
                    f"HTTP/1.1 307 x\r\nLocation: {target}/\r\nContent-Length: 0\r\n\r\n".encode()
                )

            with listening(redirect) as port:
                answer = post(f"http://127.0.0.1:{port}/")
        assert (answer.status, answer.reason, followed) == (307, "redirect", [])


class TestFailures:
    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert post(f"http://127.0.0.1:{port}/").reason == "connection"

    def test_a_connection_that_ends_without_an_answer(self) -> None:
        with listening(lambda connection: connection.close()) as port:
            assert post(f"http://127.0.0.1:{port}/").reason in {"connection", "not_http"}

    def test_an_answer_that_is_no_http(self) -> None:
        def chatter(connection: socket.socket) -> None:
            read_all(connection)
            connection.sendall(b"220 mail.example.com ESMTP\r\n\r\n")

        with listening(chatter) as port:
            assert post(f"http://127.0.0.1:{port}/").reason == "not_http"

    def test_an_answer_that_trickles_in_ends_with_the_time(self) -> None:
        """Each byte comes soon enough; only all of them together take too long."""

        def trickle(connection: socket.socket) -> None:
            read_all(connection)
            try:
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)  # the receiver's pace
            except OSError:
                return

        with listening(trickle) as port:
            began = time.monotonic()
            answer = post(f"http://127.0.0.1:{port}/", seconds=0.5)
        assert (answer.reason, time.monotonic() - began < 2) == ("timeout", True)

    def test_a_body_without_end_is_not_read(self) -> None:
        sent = 0

        def flood(connection: socket.socket) -> None:
            nonlocal sent
            read_all(connection)
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
                while True:
                    sent += connection.send(b"x" * 65536)
            except OSError:
                return

        with listening(flood) as port:
            began = time.monotonic()
            answer = post(f"http://127.0.0.1:{port}/")
        assert (answer.status, answer.reason) == (200, None)
        assert time.monotonic() - began < 3
        assert sent < 50_000_000

    def test_a_resolver_that_hangs_ends_with_the_time(self) -> None:
        hangs = threading.Event()

        def slow(_: str, __: int) -> list[str]:
            hangs.wait(20)
            return ["127.0.0.1"]

        try:
            began = time.monotonic()
            answer = post("http://app.example.com/", using=slow, seconds=0.3)
        finally:
            hangs.set()
        assert (answer.reason, time.monotonic() - began < 2) == ("timeout", True)

    def test_a_name_that_is_not_known(self) -> None:
        def unknown(_: str, __: int) -> list[str]:
            raise socket.gaierror

        assert post("https://app.example.com/", using=unknown).reason == "dns"


class TestPrivateAddresses:
    """A server listens on this machine, and is never reached."""

    @pytest.mark.parametrize(
        "host",
        [
            *("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1"),
            *("0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),  # noqa: S104
        ],
    )
    def test_spellings_of_this_machine(self, host: str) -> None:
        reached: list[Request] = []

        def trap(request: Request) -> Response:
            reached.append(request)
            return Response()

        with serving(trap) as url:
            port = url.rpartition(":")[2]
            answer = post(f"http://{host}:{port}/", allow_loopback=False)
        assert answer.reason in {"not_public", "dns"}
        assert not reached

    @pytest.mark.parametrize(
        "found",
        [
            ["127.0.0.1"],
            ["169.254.169.254"],
            ["fd00::1"],
            ["::1"],
            ["::ffff:10.0.0.1"],
            ["64:ff9b::a9fe:a9fe"],
            ["8.8.8.8", "10.0.0.1"],  # one of several is enough
        ],
    )
    def test_a_name_with_such_an_address(self, found: list[str]) -> None:
        answer = post("https://app.example.com/", allow_loopback=False, using=lambda *_: found)
        assert answer.reason == "not_public"

    def test_the_local_stack_reaches_this_machine_and_no_private_network(self) -> None:
        answer = post("https://app.example.com/", using=lambda *_: ["10.0.0.1"])
        assert answer.reason == "not_public"

    def test_a_name_that_is_pointed_elsewhere_after_the_check(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The host is resolved once; the connection is made to the address that was checked."""
        asked: list[str] = []
        connected: list[str] = []

        def rebinding(host: str, _: int) -> list[str]:
            asked.append(host)
            return ["93.184.216.34"] if len(asked) == 1 else ["127.0.0.1"]

        def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
            connected.append(address[0])
            raise ConnectionRefusedError

        monkeypatch.setattr(socket, "create_connection", connect)
        answer = post("https://app.example.com/", allow_loopback=False, using=rebinding)
        assert answer.reason == "connection"
        assert (asked, connected) == (["app.example.com"], ["93.184.216.34"])

    def test_the_next_address_is_tried_where_one_does_not_answer(self) -> None:
        with serving(lambda _: Response()) as url:
            port = url.rpartition(":")[2]
            answer = post(f"http://both.test:{port}/", using=lambda *_: ["::1", "127.0.0.1"])
        assert answer.status == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of app.example.com, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "app.example.com")])
    names = x509.SubjectAlternativeName([x509.DNSName("app.example.com")])
    now = datetime.now(UTC) - timedelta(minutes=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=2))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        made.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return file


class TestTls:
    @contextmanager
    def over_tls(self, certificate: Path, names: list[str | None]) -> Iterator[int]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda _, name, __: names.append(name)

        def serve(connection: socket.socket) -> None:
            try:
                with context.wrap_socket(connection, server_side=True) as wrapped:
                    read_all(wrapped)
                    wrapped.sendall(b"HTTP/1.1 204 x\r\n\r\n")
            except OSError:
                return

        with listening(serve) as port:
            yield port

    def test_the_certificate_is_checked_against_the_name(self, certificate: Path) -> None:
        trusted = ssl.create_default_context(cafile=str(certificate))
        names: list[str | None] = []
        with self.over_tls(certificate, names) as port:
            right, wrong = (
                post(f"https://{host}:{port}/", using=lambda *_: ["127.0.0.1"], trusted=trusted)
                for host in ("app.example.com", "other.example.com")
            )
        assert (right.status, right.reason) == (204, None)
        assert (wrong.status, wrong.reason) == (None, "tls")
        assert names == ["app.example.com", "other.example.com"]

    def test_an_unknown_authority_is_not_trusted(self, certificate: Path) -> None:
        with self.over_tls(certificate, []) as port:
            answer = post(f"https://app.example.com:{port}/", using=lambda *_: ["127.0.0.1"])
        assert answer.reason == "tls"
