"""Only sandbox keys; the rest is refused without being shown."""

import pytest

from local.commet_key import KeyRefusedError, check_sandbox_key


@pytest.mark.parametrize("key", ["ck_sandbox_abc123", "rk_sandbox_A-b_c"])
def test_sandbox_keys_are_taken(key: str) -> None:
    """Full and restricted ones."""
    assert check_sandbox_key(key) == key


@pytest.mark.parametrize(
    ("key", "because"),
    [
        ("ck_live_verysecret", "bill real people"),
        ("rk_live_verysecret", "bill real people"),
        ("ck_verysecret", "not a sandbox key"),
        ("ck_sandbox_", "not a sandbox key"),
        ("sk_sandbox_verysecret", "not a sandbox key"),
        ("ck_sandbox_very secret", "not a sandbox key"),
    ],
)
def test_other_keys_are_refused(key: str, because: str) -> None:
    """And never quoted: the message may end in a log."""
    with pytest.raises(KeyRefusedError, match=because) as refused:
        check_sandbox_key(key)
    assert "secret" not in str(refused.value)
