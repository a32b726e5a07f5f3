"""The images that the page needs: pulled where a registry answers, else made here.

An image made here has the name, folders, variables and entry point of the real one. Its userland is
this machine's Debian, its Python the one that runs this, its packages those of .venv.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import os
import platform
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from samcli.local.docker.lambda_image import LambdaImage, Runtime

from local.postgres.binaries import find_binaries
from tests.samlocal.errors import Skipped
from tests.samlocal.places import ROOT

_RUNTIME = "python3.13"
_ENTRYPOINTS = Path(__file__).with_name("entrypoints")
_STANDIN_REQUIREMENTS = ROOT / "standin" / "requirements.txt"
# Says that an image was made here, and of what; a registry's has no such label.
_LABEL = "usage-billing.made-of"
_ANSWER_SECONDS = 15
_PULL_SECONDS = 400
_LEFT_OUT = re.compile(r"^/usr/share/(doc|locale|man|info|i18n|zoneinfo|perl)|/perl")
# Belongs to the loader that an image has already.
_LIBC = re.compile(r"^(ld-linux.*|lib(c|m|dl|rt|pthread|util|resolv)\.so.*)$")


def find() -> dict[str, str]:
    """How the engine came by each image, by name; "" for those that have to be made."""
    wanted = [*_wanted()]
    with ThreadPoolExecutor(len(wanted)) as pool:
        return dict(zip(wanted, pool.map(_find, wanted, [_made_of()] * len(wanted)), strict=True))


def make(names: list[str]) -> None:
    """Makes these images. Raises Skipped."""
    wanted, made_of = _wanted(), _made_of()
    with ThreadPoolExecutor(len(names)) as pool:
        for each in [pool.submit(wanted[name], name, made_of) for name in names]:
            each.result()


def are_known() -> bool:
    """Whether the engine has all of them, or can pull them. Makes none."""
    return all(_has(name) or _pull(name) for name in _wanted())


def _wanted() -> dict[str, Callable[[str, str], None]]:
    """How each image that is named in docker-compose.yml, or by SAM CLI, is made."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    makers: dict[str, Callable[[str, str], None]]
    makers = {"python": _make_python, "motoserver/moto": _make_moto, "postgres": _make_postgres}
    images: list[str] = [service["image"] for service in compose["services"].values()]
    wanted = {name: makers[name.partition(":")[0]] for name in images}
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine())
    if machine is None:
        raise Skipped(f"Lambda has no {platform.machine()}")
    tag = Runtime.get_image_name_tag(_RUNTIME, machine)
    return wanted | {f"{LambdaImage._INVOKE_REPO_PREFIX}/{tag}": _make_lambda}


# --- asking the engine and the registry ---------------------------------------------------------


def _find(name: str, made_of: str) -> str:
    """How the image came; "" where it has to be made."""
    label = _label(name)
    if label is None or label:
        if _pull(name):
            return "pulled"
        return "made here before" if label == made_of else ""
    return "pulled before"


def _has(name: str) -> bool:
    return _label(name) is not None


def _label(name: str) -> str | None:
    """What it was made of; "" for a registry's; None where there is no such image."""
    form = f'{{{{index .Config.Labels "{_LABEL}"}}}}'
    asked = ["docker", "image", "inspect", "--format", form, name]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _pull(name: str) -> bool:
    """False where no registry has begun to answer after some seconds."""
    process = subprocess.Popen(
        ["docker", "pull", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    began, heard = time.monotonic(), False
    while process.poll() is None:
        heard = heard or bool(process.stdout.read())
        if time.monotonic() - began > (_PULL_SECONDS if heard else _ANSWER_SECONDS):
            process.kill()
        time.sleep(0.05)
        if heard:
            process.stdout.read()
    process.stdout.close()
    return process.returncode == 0


# --- making them --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tree:
    """A file system being written."""

    tar: tarfile.TarFile
    _names: set[str] = field(default_factory=set)

    def add(self, source: Path, place: str) -> None:
        """A file or a folder, but nothing twice; compiled modules too, or every start compiles."""
        self.tar.add(source, place.lstrip("/"), filter=self._new)

    def _new(self, entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if entry.name in self._names or entry.name.endswith((".a", ".la")):
            return None
        self._names.add(entry.name)
        entry.uname = entry.gname = ""
        return entry

    def text(self, place: str, text: str, *, mode: int = 0o644) -> None:
        entry = tarfile.TarInfo(place.lstrip("/"))
        entry.size, entry.mode = len(text.encode()), mode
        self.tar.addfile(entry, io.BytesIO(text.encode()))

    def folder(self, place: str, *, owner: int = 0, mode: int = 0o755) -> None:
        entry = tarfile.TarInfo(place.lstrip("/"))
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
        self.tar.addfile(entry)

    def link(self, place: str, target: str) -> None:
        entry = tarfile.TarInfo(place.lstrip("/"))
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self.tar.addfile(entry)


@contextlib.contextmanager
def _image(name: str, made_of: str, *changes: str) -> Iterator[_Tree]:
    """Writes an image's only layer, this machine's Debian first."""
    command = ["docker", "import", "--change", f"LABEL {_LABEL}={made_of}"]
    for change in changes:
        command += ["--change", change]
    with subprocess.Popen(
        [*command, "-", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # A pipe breaks where docker has refused what it read, and then says why.
        with (
            contextlib.suppress(BrokenPipeError),
            process.stdin,
            tarfile.open(fileobj=process.stdin, mode="w|") as tar,
        ):
            tree = _Tree(tar)
            _add_debian(tree)
            yield tree
        said = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise Skipped(f"the engine does not take an image for {name}: {said}")


def _make_python(name: str, made_of: str) -> None:
    with _image(
        name,
        made_of,
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin",
        "ENV LANG=C.UTF-8 PIP_NO_INDEX=1 LD_LIBRARY_PATH=/usr/local/lib",
        'CMD ["python3"]',
    ) as tree:
        _add_python(tree, "/usr/local")
        _add_distributions(tree, _SITE, ["pip", *_standin_needs()])


def _make_moto(name: str, made_of: str) -> None:
    with _image(
        name,
        made_of,
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin",
        "ENV LANG=C.UTF-8 LD_LIBRARY_PATH=/usr/local/lib",
        'ENTRYPOINT ["python3", "-m", "moto.server", "-H", "0.0.0.0"]',
    ) as tree:
        _add_python(tree, "/usr/local")
        _add_distributions(tree, _SITE, ["moto[server,secretsmanager]"])


def _make_lambda(name: str, made_of: str) -> None:
    libraries = "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib"
    libraries += ":/var/task:/var/task/lib:/opt/lib"
    with _image(
        name,
        made_of,
        "ENV LANG=en_US.UTF-8 TZ=:/etc/localtime",
        "ENV PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        f"ENV LD_LIBRARY_PATH={libraries}",
        "ENV LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime",
        "WORKDIR /var/task",
        'ENTRYPOINT ["/lambda-entrypoint.sh"]',
    ) as tree:
        for place in ("/var/task", "/opt", "/var/rapid"):
            tree.folder(place)
        _add_python(tree, "/var/lang")
        _add_distributions(tree, "/var/runtime", ["awslambdaric", "boto3"])
        tree.add(_ENTRYPOINTS / "bootstrap", "/var/runtime/bootstrap")
        tree.add(_ENTRYPOINTS / "lambda-entrypoint.sh", "/lambda-entrypoint.sh")


def _make_postgres(name: str, made_of: str) -> None:
    installed = find_binaries().parent
    beside = installed.parent.with_name(f"{installed.parent.name}.libs")  # where a wheel has them
    with _image(
        name,
        made_of,
        "ENV PATH=/usr/local/site/pgsql/bin:/usr/local/bin:/usr/sbin:/usr/bin",
        "ENV LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data LD_LIBRARY_PATH=/usr/local/lib",
        "EXPOSE 5432",
        'ENTRYPOINT ["docker-entrypoint.sh"]',
        'CMD ["postgres"]',
    ) as tree:
        tree.folder("/var/lib/postgresql", owner=70)
        tree.add(installed, "/usr/local/site/pgsql")
        programs = [*(installed / "bin").iterdir(), *installed.rglob("*.so")]
        for library in _libraries(programs, beside, installed / "lib"):
            tree.add(library.resolve(), f"/usr/local/lib/{library.name}")
        tree.add(_ENTRYPOINTS / "docker-entrypoint.sh", "/usr/local/bin/docker-entrypoint.sh")


_SITE = f"/usr/local/lib/{_RUNTIME}/site-packages"


def _add_python(tree: _Tree, place: str) -> None:
    """The interpreter that runs this, its standard library, and the libraries both need."""
    base, library = Path(sys.base_prefix), Path(os.__file__).parent
    interpreter = base / "bin" / _RUNTIME
    tree.add(interpreter.resolve(), f"{place}/bin/{_RUNTIME}")
    for name in ("python3", "python"):
        tree.link(f"{place}/bin/{name}", _RUNTIME)
    for each in sorted(library.iterdir()):
        if not re.match(r"site-packages|dist-packages|test$|idlelib|tkinter|config-", each.name):
            tree.add(each, f"{place}/lib/{_RUNTIME}/{each.name}")
    programs = [interpreter, *library.glob("lib-dynload/*.so")]
    for each in _libraries(programs):
        tree.add(each.resolve(), f"{place}/lib/{each.name}")


def _add_distributions(tree: _Tree, place: str, names: Iterable[str]) -> None:
    """Packages of .venv with all they require, as pip would install them."""
    for name in sorted(_closure(names)):
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts:
                tree.add(Path(str(file.locate())), f"{place}/{file}")
    if "pip" in names:
        tree.text("/usr/local/bin/pip", f'#!/bin/sh\nexec {_RUNTIME} -m pip "$@"\n', mode=0o755)


def _standin_needs() -> list[str]:
    """The packages that the container of the stand-in installs when it starts."""
    lines = _STANDIN_REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _closure(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(each.name, frozenset(each.extras)) for each in map(Requirement, names)]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(importlib.metadata.distribution(name).metadata["Name"])
        for text in importlib.metadata.requires(name) or ():
            each = Requirement(text)
            if each.marker is None or any(
                each.marker.evaluate({"extra": extra}) for extra in extras or {""}
            ):
                waiting.append((each.name, frozenset(each.extras)))
    return found


# --- this machine's Debian ------------------------------------------------------------------------


def _add_debian(tree: _Tree) -> None:
    """The packages that every Debian has, which are those that debootstrap would fetch."""
    for name in ("bin", "sbin", "lib", "lib64"):
        tree.link(f"/{name}", f"usr/{name}")
    for place in ("/dev", "/proc", "/sys", "/run", "/etc", "/var", "/root"):
        tree.folder(place)
    for place in ("/tmp", "/var/tmp"):  # noqa: S108 - a container's
        tree.folder(place, mode=0o1777)
    tree.link("/var/run", "/run")
    people = "root:x:0:0:root:/root:/bin/bash\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n"
    tree.text("/etc/passwd", people + "nobody:x:65534:65534::/nonexistent:/bin/false\n")
    tree.text("/etc/group", "root:x:0:\npostgres:x:70:\nnogroup:x:65534:\n")
    for file in _debian():
        tree.add(file, str(file))


@functools.cache
def _debian() -> list[Path]:
    packages = _words("dpkg-query", "-W", "-f", "${Priority}=${binary:Package}\n")
    required = [word.partition("=")[2] for word in packages if word.startswith("required=")]
    listed = [Path(p) for p in _words("dpkg-query", "-L", *required, "libc6", "ca-certificates")]
    files = {path.parent.resolve() / path.name for path in listed}
    files = {f for f in files if f.is_file() and not _LEFT_OUT.search(str(f))}
    files |= {path for path in [Path("/etc/ssl/certs/ca-certificates.crt")] if path.exists()}
    programs = [f for f in files if f.parent.name in {"bin", "sbin"}]
    for library in _libraries(programs):
        files |= {library.parent.resolve() / library.name, library.resolve()}
    return sorted(files)


def _libraries(programs: Iterable[Path], *also_in: Path) -> list[Path]:
    """The shared libraries that any of these loads, the C library left out."""
    path = os.pathsep.join(map(str, also_in))
    asked = ["ldd", *map(str, programs)]
    done = subprocess.run(
        asked,
        capture_output=True,
        text=True,
        check=False,  # scripts are among the programs
        env=os.environ | ({"LD_LIBRARY_PATH": path} if path else {}),
    )
    found = {Path(p) for p in re.findall(r"=> (/\S+) \(0x", done.stdout)}
    return sorted(each for each in found if not _LIBC.match(each.name))


def _words(*command: str) -> list[str]:
    # A package that is not installed is not listed, and the others are.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[:-1]


def _made_of() -> str:
    """A digest of everything that decides what is in an image made here."""
    parts = [sys.version, platform.version(), (ROOT / "requirements/constraints.txt").read_text()]
    parts += [_STANDIN_REQUIREMENTS.read_text()]
    parts += [p.read_text() for p in (Path(__file__), *sorted(_ENTRYPOINTS.iterdir()))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
