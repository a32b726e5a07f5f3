"""The OpenAPI document of a stack that has other settings than the defaults."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.unit.cloudformation import ROOT

OWN = {"/signup", "/login", "/logout"}


def document(tmp_path: Path, **settings: str) -> dict[str, Any]:
    place = tmp_path / "openapi.json"
    subprocess.run(
        [sys.executable, "-m", "local.openapi", "--write", str(place)],
        cwd=ROOT,
        env=os.environ | settings,
        check=True,
        capture_output=True,
    )
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return found


def test_without_own_accounts_it_has_none_of_their_routes(tmp_path: Path) -> None:
    default = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    assert default["paths"].keys() >= OWN
    found = document(tmp_path, OWN_ACCOUNTS="false", OIDC_ISSUER="https://id.example/")
    assert found["paths"].keys() & OWN == set()
    assert found["paths"].keys() < default["paths"].keys()
    schemes = found["components"]["securitySchemes"]
    assert set(schemes) == {"identityToken", "serviceKey"}
    identity = schemes["identityToken"]
    assert (identity["type"], identity["scheme"]) == ("http", "bearer")
    assert "https://id.example/.well-known/openid-configuration" in identity["description"]
    text = json.dumps(found)
    assert '"session": []' not in text
    assert '"identityToken": []' in text


def test_no_schema_has_an_id_of_its_own() -> None:
    """The references in it would have that base, and lead nowhere."""
    text = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert '"$ref": "#/components/schemas/' in text
    assert '"$id"' not in text
