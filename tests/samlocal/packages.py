"""Debian's Docker engine, unpacked below .sam-local and laid over /usr by enter.sh.

Installed it would be started, and stay. Only what this machine lacks is fetched.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.samlocal.errors import Skipped
from tests.samlocal.places import DEBS, PLUGINS, ROOT, UNPACKED

_PROGRAMS = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "iptables": "iptables",
    "slirp4netns": "slirp4netns",
    "ip": "iproute2",
}
_SECONDS = 300
_REQUIREMENTS = ROOT / "requirements" / "sam-local.txt"
# Debian chooses between them when it installs; nobody installs here.
_ALTERNATIVES = ("iptables", "ip6tables")


def unpack() -> None:
    """Fetches and unpacks what is missing. Raises Skipped."""
    missing = sorted({package for program, package in _PROGRAMS.items() if not _has(program)})
    wanted = UNPACKED / "packages"
    if not missing or (wanted.exists() and wanted.read_text().split() == missing):
        return
    if shutil.which("apt-get") is None:
        raise Skipped(f"{', '.join(missing)} missing, and this machine has no apt-get")
    shutil.rmtree(UNPACKED, ignore_errors=True)
    shutil.rmtree(DEBS, ignore_errors=True)
    (DEBS / "partial").mkdir(parents=True)
    fetch = ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", "--download-only"]
    fetch += ["-o", f"Dir::Cache::archives={DEBS}", *missing]
    if not run(["apt-get", "update", "-qq"]) or not run(fetch):
        raise Skipped(f"apt-get does not fetch {', '.join(missing)}")
    for package in DEBS.glob("*.deb"):
        if not run(["dpkg-deb", "--extract", str(package), str(UNPACKED)]):
            raise Skipped(f"{package.name} cannot be unpacked")
    _into_usr()
    for name in _ALTERNATIVES:
        program = UNPACKED / "usr/sbin" / name
        if not program.exists() and program.with_name(f"{name}-nft").exists():
            program.symlink_to(f"{name}-nft")
    shutil.rmtree(DEBS)
    wanted.write_text("\n".join(missing))


def compose_plugin() -> None:
    """Fetches `docker compose` where the docker command has none. Raises Skipped."""
    if run(["docker", "compose", "version"]) or (PLUGINS / "docker-compose").exists():
        return
    place = PLUGINS / "package"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place)]
    if not run([*pip, "-r", str(_REQUIREMENTS)]):
        raise Skipped("docker compose is missing, and pip does not fetch it")
    (PLUGINS / "docker-compose").symlink_to("package/compose/docker-compose")
    if not run([str(PLUGINS / "docker-compose"), "docker-cli-plugin-metadata"]):
        raise Skipped("docker compose is missing, and the package of it is for another processor")


def _into_usr() -> None:
    """Moves what older packages have in /lib and /sbin to where these lead."""
    for name in ("bin", "sbin", "lib"):
        if (UNPACKED / name).is_dir():
            shutil.copytree(
                UNPACKED / name, UNPACKED / "usr" / name, symlinks=True, dirs_exist_ok=True
            )


def _has(program: str) -> bool:
    return any(
        os.access(Path(place) / program, os.X_OK)
        for place in (*os.get_exec_path(), "/usr/sbin", "/sbin")
    )


def run(command: list[str]) -> bool:
    """Runs a command without a word; whether it succeeded."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
