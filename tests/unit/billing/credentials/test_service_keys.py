"""Service keys: named, scoped, several at once, and found soon after rotation."""

import hashlib
import json
import time

import pytest

from billing.credentials.secrets import Secrets
from billing.credentials.service_keys import Service, ServiceKeys
from billing.errors import Unauthenticated

OLD, NEW = ("svc_app_" + letter * 64 for letter in "ab")


def entry(key: str, *scopes: str, name: str = "app") -> dict[str, object]:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {"name": name, "sha256": digest, "scopes": list(scopes)}


class Store:
    """A secret that can be changed, and how often it was read."""

    def __init__(self, *entries: dict[str, object]) -> None:
        self.entries = list(entries)
        self.reads = 0

    def get(self, *_: str) -> str:
        self.reads += 1
        return json.dumps({"keys": self.entries})


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Monotonic time, to be moved."""
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    return moment


class TestAuthenticate:
    def test_whose_key(self) -> None:
        """The name and scopes beside the hash."""
        keys = ServiceKeys(Secrets(Store(entry(OLD, "read", "usage:write"))), "arn")
        assert keys.authenticate(OLD) == Service("app", frozenset({"read", "usage:write"}))

    def test_several_at_once(self) -> None:
        """While one is rotated; upper-case hashes are hashes."""
        second = entry(NEW, "read", name="new")
        second["sha256"] = str(second["sha256"]).upper()
        keys = ServiceKeys(Secrets(Store(entry(OLD, "read"), second)), "arn")
        assert (keys.authenticate(OLD).name, keys.authenticate(NEW).name) == ("app", "new")

    @pytest.mark.parametrize("key", ["", "svc_", OLD[:-1], OLD.upper(), NEW, "svc_\ud800", "é"])
    def test_any_other(self, key: str) -> None:
        """One answer for all of them."""
        keys = ServiceKeys(Secrets(Store(entry(OLD, "read"))), "arn")
        with pytest.raises(Unauthenticated):
            keys.authenticate(key)

    def test_the_hash_is_no_key(self) -> None:
        """Who reads the secret cannot call us with it."""
        stored = entry(OLD, "read")
        with pytest.raises(Unauthenticated):
            ServiceKeys(Secrets(Store(stored)), "arn").authenticate(str(stored["sha256"]))

    def test_a_new_key_is_found_at_once(self) -> None:
        """An unknown key reads the secret again."""
        store = Store(entry(OLD, "read"))
        keys = ServiceKeys(Secrets(store), "arn")
        keys.authenticate(OLD)
        store.entries = [entry(NEW, "read")]
        assert keys.authenticate(NEW).name == "app"
        with pytest.raises(Unauthenticated):
            keys.authenticate(OLD)

    def test_strangers_do_not_make_us_read(self, now: list[float]) -> None:
        """At most once a minute, however many wrong keys come."""
        store = Store(entry(OLD, "read"))
        keys = ServiceKeys(Secrets(store), "arn")
        for _ in range(50):
            with pytest.raises(Unauthenticated):
                keys.authenticate(NEW)
        assert store.reads == 2
        now[0] += 60
        store.entries.append(entry(NEW, "read"))
        assert keys.authenticate(NEW).name == "app"
        assert store.reads == 3
