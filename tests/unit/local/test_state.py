"""What is kept between two runs."""

import hashlib
import json
import re
from pathlib import Path

from local.state import Kept, hide, show


class TestKept:
    def test_secrets_are_made_once(self, tmp_path: Path) -> None:
        """The second run finds those of the first, and a new one gets others."""
        first, again = Kept(tmp_path), Kept(tmp_path)
        (tmp_path / "other").mkdir()
        other = Kept(tmp_path / "other")
        for name in ("service_key", "app_secret", "owner_password", "app_password"):
            assert first[name] == again[name] != other[name]
        assert re.fullmatch(r"svc_local_[0-9a-f]{64}", first["service_key"])

    def test_the_functions_get_only_a_hash_of_the_key(self, tmp_path: Path) -> None:
        """With everything it may do."""
        kept = Kept(tmp_path)
        (entry,) = json.loads(kept.service_keys())["keys"]
        assert entry["sha256"] == hashlib.sha256(kept["service_key"].encode()).hexdigest()
        assert entry["scopes"] == [
            "usage:write",
            "usage:correct",
            "read",
            "billing:manage",
            "users:manage",
            "events:manage",
        ]
        assert kept["service_key"] not in kept.service_keys()

    def test_the_secret_of_the_webhook_is_kept(self, tmp_path: Path) -> None:
        """Commet shows it only once."""
        assert json.loads(Kept(tmp_path)["webhook_secret"]) == {"secrets": []}
        Kept(tmp_path)["webhook_secret"] = '{"secrets": ["whsec_1"]}'
        assert Kept(tmp_path)["webhook_secret"] == '{"secrets": ["whsec_1"]}'


def test_files_are_for_us_alone(tmp_path: Path) -> None:
    """Written whole, and hiding twice is fine."""
    Kept(tmp_path)
    show(tmp_path, {"api": "http://127.0.0.1:1"})
    files = list(tmp_path.iterdir())
    assert {path.name for path in files} == {"secrets.json", "stack.json"}
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o600
    hide(tmp_path)
    hide(tmp_path)
    assert not (tmp_path / "stack.json").exists()
