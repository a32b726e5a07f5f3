"""The bundle of certificate authorities that vouch for a database in AWS."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from billing.database import connection

BUNDLE = Path(connection.__file__).with_name("ca.pem")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
class TestBundle:
    def test_no_certificate_ends_within_half_a_year(self) -> None:
        """There is time to renew the bundle before a connection fails."""
        certificates = x509.load_pem_x509_certificates(BUNDLE.read_bytes())
        soon = datetime.now(UTC) + timedelta(days=180)
        assert len(certificates) > 50
        assert [c.subject for c in certificates if c.not_valid_after_utc < soon] == []

    def test_rds_and_the_proxy_are_in_it(self) -> None:
        """RDS has CAs of its own, RDS Proxy is vouched for by Amazon's public ones."""
        text = BUNDLE.read_text(encoding="utf-8")
        assert "Amazon RDS eu-central-1 Root CA" in text
        assert "Amazon Root CA 1" in text
