"""Did Commet send this? Vectors are the ones of its webhook contract."""

import pytest

from billing.credentials.signatures import is_signed

SECRET = "whsec_test_4f1a"
BODY = b'{"id":"whev_01","event":"subscription.activated","data":{"customerId":"usr_8f2c"}}'
SIGNATURE = "d5ac4f2f6531255d251fb00cd0aba8e0ae61f85a917fb42e926ef29c06209fe0"
UNICODE = '{"name":"Peña ✓"}'.encode()
UNICODE_SIGNATURE = "99a7e7a827ba4a9efaa8d89576b0aed69051cb838cb5aff7460b5bdf16821481"


class TestIsSigned:
    @pytest.mark.parametrize(
        ("body", "signature"), [(BODY, SIGNATURE), (UNICODE, UNICODE_SIGNATURE)]
    )
    def test_vectors(self, body: bytes, signature: str) -> None:
        """The key is the whole secret, the message the raw bytes."""
        assert is_signed(body, signature, [SECRET])

    @pytest.mark.parametrize("written", [SIGNATURE.upper(), f" {SIGNATURE}\n"])
    def test_how_it_is_written(self, written: str) -> None:
        """Upper case and blanks around it are the same signature."""
        assert is_signed(BODY, written, [SECRET])

    def test_any_of_several_secrets(self) -> None:
        """While one is rotated, both are valid, in either order."""
        assert is_signed(BODY, SIGNATURE, ["whsec_new", SECRET])
        assert is_signed(BODY, SIGNATURE, [SECRET, "whsec_new"])
        assert is_signed(BODY, SIGNATURE, ["", SECRET])

    @pytest.mark.parametrize("secrets", [[], [""], ["whsec_other"], [SECRET[6:]], [SECRET + " "]])
    def test_other_secrets(self, secrets: list[str]) -> None:
        """No secret, an empty one and part of one sign nothing."""
        assert not is_signed(BODY, SIGNATURE, secrets)

    def test_the_signature_of_the_empty_secret(self) -> None:
        """Anybody can compute it, so it opens nothing."""
        empty = "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"
        assert not is_signed(b"", empty, [""])

    @pytest.mark.parametrize(
        "signature",
        ["", "é", "\ud800", "\x00", SIGNATURE[:-1], SIGNATURE + "0", SIGNATURE[::-1], "x" * 100_000,
         f"sha256={SIGNATURE}", SIGNATURE.replace("a", "\u0430")],
        ids=range(10),
    )  # fmt: skip
    def test_other_signatures(self, signature: str) -> None:
        """Whatever a header can hold is refused without an error."""
        assert not is_signed(BODY, signature, [SECRET])

    @pytest.mark.parametrize("body", [b"", BODY + b" ", BODY[1:], BODY.replace(b'":', b'": ')])
    def test_other_bodies(self, body: bytes) -> None:
        """The same JSON in other bytes was not signed."""
        assert not is_signed(body, SIGNATURE, [SECRET])
