"""Postgres over TLS, with a certificate of the test's own CA, and the roles of docs/aws.md."""

import contextlib
import datetime as dt
import ipaddress
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg import sql

from local.postgres import EmbeddedPostgres
from tests.deployed.errors import Failed, Skipped

NAME = "billing"
APP, ACCOUNTS, OWNER = "billing_app", "billing_accounts", "billing_owner"
_DEBIAN = Path("/usr/lib/postgresql")


class Database:
    """The server, its CA (PEM) and the roles' passwords."""

    def __init__(self, server: EmbeddedPostgres, ca: bytes) -> None:
        self._server = server
        self.ca = ca
        self.passwords = {role: secrets.token_hex(16) for role in (APP, ACCOUNTS, OWNER)}
        for role, password in self.passwords.items():
            server.ensure_role(role, password)
        server.ensure_database(NAME, OWNER)

    @property
    def port(self) -> int:
        """The server's port."""
        return self._server.port

    def change_password(self, role: str, password: str) -> None:
        """Gives the role another password, and ends its sessions, so that it has to log in anew."""
        self.passwords[role] = password
        self._server.ensure_role(role, password)
        with self._server.connect() as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [role]
            )

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """What the statement returns in the stack's database."""
        with self._server.connect(NAME) as connection:
            return connection.execute(sql.SQL(statement)).fetchall()


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Database]:
    """The server. It refuses connections without TLS. Raises Failed."""
    ca, certificate, key = _certificates()
    with EmbeddedPostgres(directory, fast=True, binaries=find_binaries()) as server:
        (place,) = {Path(str(row)) for (row,) in _ask(server, "show data_directory")}
        owner = place.stat()
        for name, content in (("server.crt", certificate), ("server.key", key)):
            file = place / name
            file.touch(mode=0o600)
            file.write_bytes(content)
            os.chown(file, owner.st_uid, owner.st_gid)
        with server.connect() as connection:
            connection.execute("alter system set ssl = on")
            connection.execute("select pg_reload_conf()")
        _only_tls(server)
        yield Database(server, ca)


def find_binaries() -> Path:
    """The programs of a Postgres that speaks TLS, which the wheel's does not. Raises Skipped."""
    for place in sorted(_DEBIAN.glob("*/bin"), reverse=True):
        if all((place / program).exists() for program in ("postgres", "initdb")):
            return place
    raise Skipped("there is no Postgres that speaks TLS (on Debian: apt install postgresql)")


def _only_tls(server: EmbeddedPostgres) -> None:
    for _ in range(100):
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(server.url(), sslmode="require", connect_timeout=5),
        ):
            return
    raise Failed("Postgres does not speak TLS")


def _ask(server: EmbeddedPostgres, statement: str) -> list[tuple[object, ...]]:
    with server.connect() as connection:
        return connection.execute(sql.SQL(statement)).fetchall()


def _certificates() -> tuple[bytes, bytes, bytes]:
    """A CA, and a server's certificate and key for localhost, all PEM. The CA's key is dropped."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "deploy-test CA")])
    server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    ca = (
        builder(name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        builder(server, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return ca.public_bytes(pem), certificate.public_bytes(pem), private
