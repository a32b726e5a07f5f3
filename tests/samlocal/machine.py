"""What a machine looks like to somebody who wants it back as it was."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

from tests.samlocal.engine import answers
from tests.samlocal.places import UNPACKED

# In the environment of every process of a run, so that one that was left behind can be told.
MARK = "USAGE_BILLING_SAM_LOCAL_TEST"
_CGROUP = "usage-billing-sam-local"
_SAVES = [f"{ip}tables{kind}-save" for ip in ("ip", "ip6") for kind in ("-nft", "-legacy")]
_FOLDERS = ["/run/docker*", "/run/containerd*", "/run/netns/*", "/var/lib/docker", "/etc/docker"]

State = dict[str, frozenset[str]]


def look() -> State:
    """Everything a Docker engine changes on a machine."""
    found = {
        "processes": _processes(),
        "mounts": _lines("/proc/self/mountinfo"),
        "network links": frozenset(os.listdir("/sys/class/net")),  # noqa: PTH208 - no paths
        "iptables": _iptables(),
        "forwarding": _lines("/proc/sys/net/ipv4/ip_forward"),
    }
    if not answers():
        groups = Path("/sys/fs/cgroup").glob(f"**/{_CGROUP}")
        found["control groups"] = frozenset(map(str, groups))
        folders = (path for each in _FOLDERS for path in Path("/").glob(each[1:]))
        found["folders"] = frozenset(map(str, folders))
    else:  # which has folders and control groups of its own
        for kind in ("container", "network", "volume"):
            form = "{{.Name}}" if kind != "container" else "{{.Names}}"
            found[f"Docker {kind}s"] = _printed("docker", kind, "ls", "--format", form)
    return found


def differences(before: State, after: State) -> list[str]:
    """A line for each thing that is there now and was not, or the other way round."""
    told = []
    for kind in before.keys() | after.keys():
        was, now = before.get(kind, frozenset()), after.get(kind, frozenset())
        told += [f"{kind}: new: {each}" for each in sorted(now - was)]
        told += [f"{kind}: gone: {each}" for each in sorted(was - now)]
    return told


def marked() -> list[int]:
    """Processes of a run, this one and those that started it left out."""
    family = {os.getpid()}
    pid = os.getpid()
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        family.add(pid)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in family:
            continue
        try:
            environment, groups = (entry / "environ").read_bytes(), (entry / "cgroup").read_text()
        except OSError:
            continue  # it has ended, or is somebody else's
        if f"{MARK}=".encode() in environment or f"/{_CGROUP}/" in groups:
            found.append(int(entry.name))
    return found


def end_marked() -> None:
    """Kills what a run has left that was killed itself. Two runs at once are not allowed."""
    for pid in marked():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes() -> frozenset[str]:
    found = set()
    for pid in marked():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        found.add(f"{pid} {command[:100]}")
    return frozenset(found)


def _iptables() -> frozenset[str]:
    """All tables' chains, policies and rules, without what counts and what tells the time."""
    libraries = os.pathsep.join(map(str, (UNPACKED / "usr/lib").glob("*-linux-gnu")))
    environment = {"LD_LIBRARY_PATH": libraries, "PATH": f"{UNPACKED}/usr/sbin:/usr/sbin:/sbin"}
    lines: set[str] = set()
    for program in _SAVES:
        try:
            done = subprocess.run(
                [program], env=environment, capture_output=True, text=True, check=False, timeout=20
            )
        except OSError:
            continue
        found = [re.sub(r" \[\d+:\d+\]$", "", line) for line in done.stdout.splitlines()]
        lines |= {f"{program}: {line}" for line in found if not line.startswith("#")}
    return frozenset(lines)


def _lines(path: str) -> frozenset[str]:
    return frozenset(Path(path).read_text().splitlines())


def _printed(*command: str) -> frozenset[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return frozenset(done.stdout.splitlines())
