"""The TypeScript client: built as it is kept, tested by Node, and installed from its folder."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

from tests.node import tool

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "clients" / "typescript"


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    ran = subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_what_is_kept_is_what_the_sources_make(tmp_path: Path) -> None:
    """Without any type error."""
    run(tool("tsc"), "--project", FOLDER, "--outDir", tmp_path / "dist", cwd=tmp_path)
    assert texts(tmp_path / "dist") == texts(FOLDER / "dist")


def test_its_own_tests(tmp_path: Path) -> None:
    tool("tsc")  # skips where Node is too old
    client = str(FOLDER / "dist" / "index.js")
    tests = Path(__file__).with_name("client.test.mjs")
    assert "# fail 0" in run("node", "--test", tests, cwd=tmp_path, CLIENT=client)


def test_it_is_installed_from_its_folder(tmp_path: Path) -> None:
    """And its types are found, also by a block with `await using`."""
    tsc = tool("tsc")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    npm = shutil.which("npm") or "npm"
    run(npm, "install", "--offline", "--no-audit", "--no-fund", str(FOLDER), cwd=tmp_path)
    (tmp_path / "use.ts").write_text(
        'import { Billing, type Taken } from "usage-billing-client";\n'
        "export async function work(billing: Billing): Promise<Taken> {\n"
        '  await using held = await billing.reserve({ userId: "ana", feature: "tokens" });\n'
        '  await held.confirm("0.5");\n'
        '  return billing.report({ userId: "ana", feature: "tokens", quantity: "1.5" });\n'
        "}\n",
        encoding="utf-8",
    )
    options = ["--strict", "--target", "ES2022", "--module", "NodeNext", "--noEmit"]
    run(
        tsc,
        *options,
        "--lib",
        "ES2022,DOM,ESNext.Disposable",
        "use.ts",
        cwd=tmp_path,
    )
    said = run(
        "node",
        "-e",
        "import('usage-billing-client').then(m => console.log(typeof m.Billing))",
        cwd=tmp_path,
    )
    assert said.strip() == "function"


def test_the_version_is_the_backend_s() -> None:
    """They are released together."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))
    assert package["version"] == project["version"]
