"""Refuses, before the build, settings that could not work after the deployment."""

import re
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import DeployError

_REGION = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.rds\.amazonaws\.com|\.rds\.(cn-[a-z]+-\d)\.")
_CA = re.compile(r"^# Amazon RDS (\S+) Root CA", re.MULTILINE)


def regions_with_ca(template: Path) -> set[str]:
    """Returns the regions whose RDS CAs are in the bundle that ships beside `template`."""
    bundle = template.parent / "layers/common/billing/database/ca.pem"
    return set(_CA.findall(bundle.read_text(encoding="utf-8")))


def refuse_unverifiable(template: Path, values: Mapping[str, str], region: str) -> None:
    """Raises DeployError if no function could verify the certificate of the database."""
    if values.get("DatabaseCa", "aws") != "aws" or values.get("DatabaseSslMode") == "require":
        return
    named = _REGION.search(values.get("DatabaseHost", ""))
    places = {region} | ({named[1] or named[2]} if named else set())
    if missing := sorted(places - regions_with_ca(template)):
        raise DeployError(
            f"ca.pem has no CA of RDS in {' and '.join(missing)}, so functions could not verify the"
            " database's certificate. docs/aws.md says how to add it ('The database')."
        )
