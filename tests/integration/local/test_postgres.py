"""The embedded Postgres: started, found again, guarded, and never left behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from local.postgres import DataInUseError, EmbeddedPostgres, PostgresError
from local.postgres.account import (
    Account,
    choose_account,
    reachable_binaries,
    reachable_data,
)
from tests.integration.local.processes import eventually, gone

ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def public_directory() -> Iterator[Path]:
    """Unlike pytest's own: that is private, and root's Postgres would keep its data elsewhere."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with public_directory() as directory, EmbeddedPostgres(directory, fast=True) as running:
        yield running


@pytest.fixture
def directory() -> Iterator[Path]:
    with public_directory() as found:
        yield found


class TestDatabases:
    def test_roles_and_databases_are_made_once(self, postgres: EmbeddedPostgres) -> None:
        """Asking again changes the password and nothing else."""
        for password in ("first", "second"):
            postgres.ensure_role("keeper", password)
            postgres.ensure_database("kept", owner="keeper")
            with psycopg.connect(postgres.url("kept", "keeper", password)) as connection:
                connection.execute("create table if not exists mine (n int)")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres.url("kept", "keeper", "first"))


def test_nobody_is_trusted_and_nobody_outside_is_served(postgres: EmbeddedPostgres) -> None:
    """A password over loopback only, whoever asks."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url(password="guess"))
    with postgres.connect() as connection:
        shown = connection.execute(
            "select current_setting('listen_addresses'), current_setting('password_encryption')"
        ).fetchone()
    assert shown == ("127.0.0.1", "scram-sha-256")


def test_secrets_are_ours_alone(postgres: EmbeddedPostgres) -> None:
    """The password file, and neither log nor process list."""
    file = postgres.directory / "postgres.password"
    assert file.stat().st_mode & 0o077 == 0
    password = file.read_text()
    assert password not in (postgres.directory / "postgres.log").read_text()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert password not in listed.stdout


def test_the_same_directory_has_the_same_data(directory: Path) -> None:
    """And the same port, so that a URL written down stays good."""
    with EmbeddedPostgres(directory) as first:
        url = first.ensure_database("kept")
    with EmbeddedPostgres(directory) as second:
        assert second.url("kept") == url
        psycopg.connect(url).close()


def test_a_second_owner_is_refused(postgres: EmbeddedPostgres) -> None:
    """With the first one's pid, and without harm to it."""
    with pytest.raises(DataInUseError, match=f"Process {os.getpid()} already runs"):
        EmbeddedPostgres(postgres.directory).start()
    postgres.connect().close()


def test_data_of_another_version_is_not_touched(directory: Path) -> None:
    """The message says what to do."""
    with EmbeddedPostgres(directory):
        pass
    place = data_of(directory)
    (place / "PG_VERSION").write_text("12\n")
    with pytest.raises(PostgresError, match="was made by Postgres 12"):
        EmbeddedPostgres(directory).start()


def test_a_stale_pid_file_does_not_matter(directory: Path) -> None:
    """Even where its pid belongs to another program by now."""
    with EmbeddedPostgres(directory):
        pass
    pid_file = data_of(directory) / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n/nowhere\n0\n0\n\n\n\nready\n")
    with EmbeddedPostgres(directory) as postgres:
        postgres.connect().close()


def test_an_interrupted_initdb_is_done_again(directory: Path) -> None:
    """Half a cluster is never mistaken for one."""
    half_made = reachable_data(directory, choose_account()) / "postgres.new"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18")
    with EmbeddedPostgres(directory, fast=True) as postgres:
        postgres.connect().close()
    assert not half_made.exists()


OWNER = """
import sys, time
from pathlib import Path
from local.postgres import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]))
postgres.start()
print(postgres.url(), postgres._supervisor.pid, flush=True)
time.sleep(600)
"""


class Owner:
    """A process that runs Postgres, to be killed."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(directory)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        with self.process.stdout as lines:
            self.url, supervisor = lines.readline().split()
        self.supervisor = int(supervisor)
        self.postmaster = postmaster(directory)


def postmaster(directory: Path) -> int:
    return int((data_of(directory) / "postmaster.pid").read_text().split()[0])


class TestOrphans:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_postgres_ends_with_its_owner(self, directory: Path, number: int) -> None:
        """However the owner dies; and the next one starts at once, with everything committed."""
        owner = Owner(directory)
        with psycopg.connect(owner.url, autocommit=True) as connection:
            connection.execute("create table kept as select 1 as n")
        owner.process.send_signal(number)
        owner.process.wait()
        with EmbeddedPostgres(directory) as next_one, next_one.connect() as connection:
            assert connection.execute("select n from kept").fetchone() == (1,)
        assert gone(owner.postmaster)
        eventually(lambda: gone(owner.supervisor))

    def test_postgres_ends_with_its_supervisor(self, directory: Path) -> None:
        """Should that be the one that is killed."""
        if sys.platform != "linux":
            pytest.skip("only the Linux kernel tells a child of its parent's death")
        owner = Owner(directory)
        os.kill(owner.supervisor, signal.SIGKILL)
        eventually(lambda: gone(owner.postmaster))
        owner.process.kill()
        owner.process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
class TestAsRoot:
    def test_postgres_runs_as_nobody(self, postgres: EmbeddedPostgres) -> None:
        """It refuses to run as root."""
        shown = subprocess.run(
            ["ps", "-o", "user=", "-p", str(postmaster(postgres.directory))],
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.strip() == "nobody"

    def test_private_directories_stay_private(self, directory: Path) -> None:
        """The data then lies elsewhere, found again by an id, and forgotten with it."""
        private = directory / "private"
        private.mkdir(mode=0o700)
        for _ in range(2):
            with EmbeddedPostgres(private, fast=True) as postgres:
                postgres.ensure_database("kept")
                postgres.connect("kept").close()
        assert private.stat().st_mode & 0o777 == 0o700
        place = data_of(private).parent
        assert place.parent == Path("/var/tmp/usage-billing-0")  # noqa: S108
        (private / "postgres.id").unlink()
        with EmbeddedPostgres(private, fast=True):
            assert not place.exists()
        shutil.rmtree(data_of(private).parent)

    def test_binaries_out_of_reach_are_copied_once(self, tmp_path: Path) -> None:
        """Together with the libraries beside their package, which they look for relatively."""
        binaries = tmp_path / "wheel/pginstall/bin"
        binaries.mkdir(parents=True)
        (binaries / "postgres").write_text(str(tmp_path))
        (tmp_path / "wheel.libs").mkdir()
        (tmp_path / "wheel.libs/libpq.so").touch()
        account = choose_account()
        copied = reachable_binaries(binaries, account)
        assert account.reaches(copied)
        assert (copied / "postgres").read_text() == str(tmp_path)
        assert (copied.parents[2] / "wheel.libs/libpq.so").exists()
        assert reachable_binaries(binaries, account) == copied
        shutil.rmtree(copied.parents[2])

    def test_reach_is_judged_by_every_directory_on_the_way(self, directory: Path) -> None:
        """One private directory anywhere above is enough to be out of reach."""
        account = Account(65534, 65534)
        public = directory / "public"
        public.mkdir(mode=0o755)
        directory.chmod(0o755)
        assert account.reaches(Path("/usr/bin"))
        directory.chmod(0o700)
        assert not account.reaches(public)
        assert Account().reaches(public)


def data_of(directory: Path) -> Path:
    """Where the cluster of a directory is, on this machine and as this user."""
    if (directory / "postgres/PG_VERSION").exists():
        return directory / "postgres"
    name = (directory / "postgres.id").read_text()
    return Path(f"/var/tmp/usage-billing-{os.geteuid()}/data-{name}/postgres")  # noqa: S108
