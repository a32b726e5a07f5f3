"""Endpoints reach the public internet and nothing else."""

import pytest

from billing.events import addresses

PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "2001:4860:4860::8888",
    "2600:1f18::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]
NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 - nothing is bound to it
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.1.2.3",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::",
    "2002:808:808::1",
    "2001:0:808:808::1",
    "2001:db8::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "example.com",
    "",
]
GOOD = [
    "https://app.example.com/hooks",
    "https://app.example.com:8443/hooks?tenant=1",
    "https://APP.Example.com",
    "https://8.8.8.8/hooks",
    "https://[2001:4860:4860::8888]/hooks",
]
BAD = [
    "",
    "app.example.com/hooks",
    "http://app.example.com/hooks",
    "ftp://app.example.com/hooks",
    "https://",
    "https:///hooks",
    "https://ana@app.example.com/",
    "https://ana:secret@app.example.com/",
    "https://:@app.example.com/",
    "https://app.example.com/hooks#there",
    "https://app.example.com/a b",
    "https://app.example.com\\@127.0.0.1/",
    "https://app.example.com:0/",
    "https://app.example.com:99999/",
    "https://app.exämple.com/",
    "https://localhost/",
    "https://intranet/",
    "https://127.0.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[fd00::1]/",
    "https://0.0.0.0/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://127.0.0.1./",
    "https://[::1/",
    "https://app..example.com/",
    "http://localhost:8080/hooks",
    "http://127.0.0.1:8080/hooks",
]
ON_LOOPBACK = ["http://localhost:8080/hooks", "http://127.0.0.1:8080/hooks", "http://[::1]:8080/"]


class TestIsPublic:
    @pytest.mark.parametrize("address", PUBLIC)
    def test_addresses_of_the_internet_are(self, address: str) -> None:
        assert addresses.is_public(address)

    @pytest.mark.parametrize("address", NOT_PUBLIC)
    def test_all_others_are_not(self, address: str) -> None:
        assert not addresses.is_public(address)


class TestProblemOf:
    @pytest.mark.parametrize("url", GOOD)
    def test_a_public_https_address_has_none(self, url: str) -> None:
        assert addresses.problem_of(url, allow_loopback=False) is None

    @pytest.mark.parametrize("url", BAD)
    def test_any_other_address_has_one(self, url: str) -> None:
        assert addresses.problem_of(url, allow_loopback=False) is not None

    @pytest.mark.parametrize("url", ON_LOOPBACK)
    def test_http_to_this_machine_has_none_on_the_local_stack(self, url: str) -> None:
        assert addresses.problem_of(url, allow_loopback=True) is None

    @pytest.mark.parametrize("url", sorted(set(BAD) - set(ON_LOOPBACK)))
    def test_the_local_stack_allows_nothing_else(self, url: str) -> None:
        assert addresses.problem_of(url, allow_loopback=True) is not None
