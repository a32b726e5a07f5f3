"""Secrets: the extension's protocol over a real socket, Secrets Manager itself, and rotation."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from billing import wiring
from billing.credentials.secrets import ExtensionStore, Secrets, SecretsManagerStore
from billing.credentials.signatures import Verifier
from billing.errors import BadSignature, PayloadTooLarge, Unavailable
from tests.conftest import SecretsManager
from tests.environments import forget
from tests.http_server import Request, Response, serving
from tests.unit.billing.credentials.test_signatures import BODY, SECRET, SIGNATURE

ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:a/b-x1"


class Extension:
    """The Parameters and Secrets extension, as far as we use it."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b'{"SecretString": "s3cret"}'
        self.seen: list[tuple[str, str | None]] = []
        self.port = 0


@pytest.fixture
def extension() -> Iterator[Extension]:
    box = Extension()

    def answer(request: Request) -> Response:
        token = request.headers.get("x-aws-parameters-secrets-token")
        box.seen.append((request.path, token))
        return Response(box.body, box.status)

    with serving(answer) as url:
        box.port = int(url.rpartition(":")[2])
        yield box


class TestWiring:
    @pytest.fixture
    def configured(
        self, extension: Extension, secrets_manager: SecretsManager, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[str]:
        """With the extension's layer; the id of a secret that Secrets Manager has."""
        for name in ("APP_URL", "DATABASE_HOST", "DATABASE_NAME"):
            monkeypatch.setenv(name, "https://app.example")
        monkeypatch.setenv("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", str(extension.port))
        monkeypatch.setenv("SECRETS_ENDPOINT_URL", secrets_manager.url)
        forget()
        yield secrets_manager.create("from Secrets Manager")
        forget()

    def test_by_the_extension(self, configured: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
        assert wiring.secrets().text(configured) == "s3cret"

    def test_by_the_api_where_there_is_no_session_token(
        self, configured: str, extension: Extension, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a function that SnapStart has restored: the extension would answer it 400."""
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        assert wiring.secrets().text(configured) == "from Secrets Manager"
        assert extension.seen == []


class TestExtensionStore:
    def test_protocol(self, extension: Extension, monkeypatch: pytest.MonkeyPatch) -> None:
        """The id is quoted, and the session token of this very moment goes along."""
        store = ExtensionStore(extension.port)
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token-1")
        assert store.get(ARN) == "s3cret"
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token-2")
        store.get("x&y=z")
        quoted = ARN.replace(":", "%3A").replace("/", "%2F")
        assert extension.seen == [
            (f"/secretsmanager/get?secretId={quoted}", "token-1"),
            ("/secretsmanager/get?secretId=x%26y%3Dz", "token-2"),
        ]

    def test_the_next_value(self, extension: Extension) -> None:
        """The stage is asked for only where it is not the current one."""
        assert ExtensionStore(extension.port).get("x", "AWSPENDING") == "s3cret"
        assert extension.seen[0][0] == "/secretsmanager/get?secretId=x&versionStage=AWSPENDING"

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503, 204])
    def test_refusals(self, extension: Extension, status: int) -> None:
        """Not ready, not allowed, not there: we are not available, whatever the reason."""
        extension.status, extension.body = status, b""
        with pytest.raises(Unavailable):
            ExtensionStore(extension.port).get(ARN)

    @pytest.mark.parametrize(
        "body",
        [b"", b"<html>", b"[]", b"{}", b"null", b'{"SecretString": null}', b'{"SecretString": 7}',
         b'{"SecretBinary": "AAAA"}', b"\xff"],
    )  # fmt: skip
    def test_garbage(self, extension: Extension, body: bytes) -> None:
        """What is no secret does not become one, least of all the word None."""
        extension.body = body
        with pytest.raises(Unavailable):
            ExtensionStore(extension.port).get(ARN)

    def test_nobody_there(self) -> None:
        """A refused connection is the same to our callers."""
        with pytest.raises(Unavailable):
            ExtensionStore(1).get(ARN)

    def test_errors_hold_no_secret(self, extension: Extension) -> None:
        """A decoder's message quotes what it could not decode; it is not chained."""
        extension.body = b"s3cret, but no JSON"
        with pytest.raises(Unavailable) as caught:
            ExtensionStore(extension.port).get(ARN)
        assert caught.value.__cause__ is None
        assert "s3cret" not in str(caught.value)


@pytest.fixture(scope="module")
def manager() -> Iterator[Any]:
    import boto3

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield boto3.client("secretsmanager")
    server.stop()


class TestSecretsManagerStore:
    def test_reads(self, manager: Any) -> None:
        """By name or ARN, the current version."""
        arn = manager.create_secret(Name="one", SecretString="first")["ARN"]
        store = SecretsManagerStore()
        assert (store.get("one"), store.get(arn)) == ("first", "first")
        manager.put_secret_value(SecretId="one", SecretString="second")
        assert store.get(arn) == "second"

    def test_the_next_value(self, manager: Any) -> None:
        """Only while there is one."""
        manager.create_secret(Name="rotating", SecretString="first")
        store = SecretsManagerStore()
        with pytest.raises(Unavailable):
            store.get("rotating", "AWSPENDING")
        manager.put_secret_value(
            SecretId="rotating", SecretString="second", VersionStages=["AWSPENDING"]
        )
        assert (store.get("rotating"), store.get("rotating", "AWSPENDING")) == ("first", "second")

    def test_writes(self, manager: Any) -> None:
        """What is there; a secret is made by the template and by nobody else."""
        manager.create_secret(Name="written", SecretString="first")
        store = SecretsManagerStore()
        store.put("written", "second")
        assert store.get("written") == "second"
        with pytest.raises(Unavailable):
            store.put("nowhere", "second")

    def test_not_there_or_not_text(self, manager: Any) -> None:
        """Both are for the deployer to mend."""
        manager.create_secret(Name="binary", SecretBinary=b"\x00")
        for name in ("nowhere", "binary"):
            with pytest.raises(Unavailable):
                SecretsManagerStore().get(name)

    def test_nobody_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No network: not available, and soon."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        with pytest.raises(Unavailable):
            SecretsManagerStore().get("one")


class Store:
    """A secret that can be rotated, or be out of reach."""

    def __init__(self, value: str | None) -> None:
        self.value = value
        self.reads = 0

    def get(self, *_: str) -> str:
        self.reads += 1
        if self.value is None:
            raise Unavailable
        return self.value


class TestSecrets:
    def test_kept_and_read_again(self) -> None:
        """Once per environment, unless somebody has reason to believe it was rotated."""
        store = Store("old")
        secrets = Secrets(store)
        assert [secrets.text("id"), secrets.text("id")] == ["old", "old"]
        store.value = "new"
        assert secrets.text("id") == "old"
        assert secrets.text("id", fresh=True) == "new"
        assert secrets.text("id") == "new"
        assert store.reads == 2

    def test_several_threads(self) -> None:
        """The store is read by one at a time, and those that waited take what it found."""
        started = threading.Barrier(4)

        class Slow(Store):
            def get(self, *_: str) -> str:
                started.wait(10)  # the others are on their way
                return super().get()

        secrets = Secrets(store := Slow("old"))

        def read(turn: int) -> str:
            if turn:
                started.wait(10)
            return secrets.text("id")

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read, range(4))) == ["old"] * 4
        assert store.reads == 1

    def test_out_of_reach(self) -> None:
        """What is known stays known when reading it again fails."""
        store = Store("old")
        secrets = Secrets(store)
        secrets.text("id")
        store.value = None
        with pytest.raises(Unavailable):
            secrets.text("id", fresh=True)
        assert secrets.text("id") == "old"

    def test_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was taken out of a secret is not believed for ever; nor is every use a read."""
        moment = [0.0]
        monkeypatch.setattr("billing.credentials.secrets.time.monotonic", lambda: moment[0])
        store = Store("old")
        secrets = Secrets(store)
        secrets.text("id", max_age_seconds=60)
        store.value = "new"
        moment[0] = 59.9
        assert secrets.text("id", max_age_seconds=60) == "old"
        moment[0] = 60
        assert secrets.text("id") == "old"
        assert [secrets.text("id", max_age_seconds=60) for _ in range(3)] == ["new"] * 3
        assert store.reads == 2

    def test_too_old_and_out_of_reach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is known serves on, and the store is left in peace for a while."""
        moment = [0.0]
        monkeypatch.setattr("billing.credentials.secrets.time.monotonic", lambda: moment[0])
        store = Store("old")
        secrets = Secrets(store)
        secrets.text("id", max_age_seconds=60)
        store.value = None
        moment[0] = 60
        assert [secrets.text("id", max_age_seconds=60) for _ in range(3)] == ["old"] * 3
        assert store.reads == 2
        store.value, moment[0] = "new", 120
        assert secrets.text("id", max_age_seconds=60) == "new"

    def test_pending(self) -> None:
        """The next value while there is one, at no other time, and not what cannot be read."""

        class Rotating(Store):
            def get(self, *asked: str) -> str:
                return super().get(asked[0]) if "AWSPENDING" in asked else "{}"

        assert Secrets(Rotating('{"password": "next"}')).pending("id") == {"password": "next"}
        assert Secrets(Rotating(None)).pending("id") is None
        assert Secrets(Rotating("no json")).pending("id") is None

    def test_not_told_where(self) -> None:
        """A function that was given no such secret is a mistake of ours, not an empty secret."""
        with pytest.raises(RuntimeError):
            Secrets(Store("x")).text("")

    @pytest.mark.parametrize("value", ["", "plain", "[]", "7", '"x"', "null", "{"])
    def test_fields_of_what_is_no_object(self, value: str) -> None:
        """The deployer is told what is wrong, and nobody what it says."""
        with pytest.raises(Unavailable) as caught:
            Secrets(Store(value)).fields("id")
        assert caught.value.__cause__ is None
        assert "JSON" in caught.value.detail


class TestVerifier:
    def test_signed(self) -> None:
        """A good signature passes without a word."""
        store = Store(json.dumps({"secrets": ["whsec_new", SECRET]}))
        verifier = Verifier(Secrets(store), "id")
        for _ in range(3):
            verifier.verify(BODY, SIGNATURE)
        assert store.reads == 1

    def test_too_large(self) -> None:
        """Size is looked at before anything else is done."""
        store = Store(None)
        with pytest.raises(PayloadTooLarge):
            Verifier(Secrets(store), "id").verify(b"x" * 1_100_001, SIGNATURE)
        assert store.reads == 0

    def test_rotated_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A new secret is found, and strangers cannot make us read more than once a minute."""
        moment = [0.0]
        monkeypatch.setattr("billing.credentials.signatures.time.monotonic", lambda: moment[0])
        store = Store('{"secrets": ["whsec_old"]}')
        verifier = Verifier(Secrets(store), "id")
        for _ in range(20):
            with pytest.raises(BadSignature):
                verifier.verify(BODY, SIGNATURE)
        assert store.reads == 2
        store.value = json.dumps({"secrets": ["whsec_old", SECRET]})
        for moment[0] in (0.0, 59.9):
            with pytest.raises(BadSignature):
                verifier.verify(BODY, SIGNATURE)
        moment[0] = 60
        verifier.verify(BODY, SIGNATURE)

    def test_rotated_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A secret that was taken out is believed for five minutes, and no longer."""
        moment = [0.0]
        monkeypatch.setattr("billing.credentials.signatures.time.monotonic", lambda: moment[0])
        store = Store(json.dumps({"secrets": [SECRET]}))
        verifier = Verifier(Secrets(store), "id")
        verifier.verify(BODY, SIGNATURE)
        store.value = '{"secrets": ["whsec_new"]}'
        moment[0] = 299.9
        verifier.verify(BODY, SIGNATURE)
        moment[0] = 300
        with pytest.raises(BadSignature):
            verifier.verify(BODY, SIGNATURE)

    @pytest.mark.parametrize(
        ("value", "key"),
        [("{}", ""), ('{"secrets": []}', ""), ('{"secrets": [""]}', ""),
         ('{"secrets": [null]}', "None"), ('{"secrets": "whsec_x"}', "w"),
         ('{"secrets": {"w": 1}}', "w"), ('{"secrets": [7]}', "7")],
    )  # fmt: skip
    def test_a_secret_that_is_none(self, value: str, key: str) -> None:
        """A malformed secret closes the door; it does not become one that can be guessed."""
        import hashlib
        import hmac

        forged = hmac.new(key.encode(), BODY, hashlib.sha256).hexdigest()
        with pytest.raises(BadSignature):
            Verifier(Secrets(Store(value)), "id").verify(BODY, forged)

    def test_out_of_reach(self) -> None:
        """Commet must send it again."""
        with pytest.raises(Unavailable):
            Verifier(Secrets(Store(None)), "id").verify(BODY, SIGNATURE)
