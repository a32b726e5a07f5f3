"""The AWS emulator: installed into an environment of its own, and running."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.deployed import unpacking
from tests.deployed.errors import Failed, Skipped
from tests.deployed.places import ENVIRONMENT, HOST, LOGS, REGION, ROOT

_REQUIREMENTS = ROOT / "requirements" / "deploy-test.txt"
_INSTALL_SECONDS = 300
_START_SECONDS = 60
# The emulator takes these for the account's own. Functions have credentials of their roles.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
# So that no profile, role or endpoint of the person who runs this is used.
UNSET = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ROLE_ARN", "AWS_CA_BUNDLE")


def install() -> bool:
    """Makes the environment where it is missing or outdated. Whether it did. Raises Skipped."""
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    made_of = ENVIRONMENT / "made-of"
    if made_of.exists() and made_of.read_text() == digest:
        return False
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(ENVIRONMENT)])
    pip = [str(ENVIRONMENT / "bin/python"), "-m", "pip", "install", "--no-input", "-q"]
    _run([*pip, "-r", str(_REQUIREMENTS)])
    made_of.write_text(digest)
    return True


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Skipped(f"the emulator cannot be installed: {''.join(reason)[:300]}")


@contextlib.contextmanager
def running(directory: Path, port: int, front_port: int) -> Iterator[str]:
    """The emulator's address. All that it writes is below `directory`. Raises Failed.

    Functions call AWS at `front_port`, where their calls are counted.
    """
    temporary = directory / "emulator"
    temporary.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in UNSET} | {
        # The functions run on the Python that is first on PATH.
        "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        **{name: str(port) for name in ("GATEWAY_PORT", "EDGE_PORT", "PORT")},
        "BIND_HOST": HOST,
        "AUTH": "true",
        "LAMBDA_EXECUTOR": "local",
        "PERSIST_STATE": "0",
        "STATE_DIR": str(temporary / "state"),
        "S3_DATA_DIR": str(temporary / "s3"),
        "TMPDIR": str(temporary),
        "AWS_ENDPOINT_URL": f"http://{HOST}:{front_port}",
        "AWS_DEFAULT_REGION": REGION,
        **CREDENTIALS,
    }
    environment.pop("PYTHONPATH", None)
    with (LOGS / "emulator.log").open("wb") as log:
        process = subprocess.Popen(
            [str(ENVIRONMENT / "bin/python"), unpacking.__file__, str(temporary / "layers")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=temporary,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
    address = f"http://{HOST}:{port}"
    try:
        _wait(process, address)
        yield address
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/_ministack/health", trust_env=False).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"the emulator does not start: see {LOGS / 'emulator.log'}")
        time.sleep(0.1)
