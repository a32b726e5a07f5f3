"""The program inside database.yaml that makes the functions' role, on a real Postgres.

AWS is stood in for at the wire: Secrets Manager by moto, the Data API by a server that runs each
statement as the tables' owner, who like RDS's is no superuser.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from psycopg import sql

from tests.http_server import Request, Response, serving
from tests.unit.cloudformation import ROOT, load

OWNER_PASSWORD = "owner"
DATA_API_PARAMETER = ":name"


@dataclass
class Aws:
    """The Data API, and CloudFormation's address for answers."""

    owner_url: str
    url: str = ""
    statements: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def execute(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.statements.append(asked["sql"])
        values = {p["name"]: p["value"]["stringValue"] for p in asked["parameters"]}
        statement = asked["sql"].replace(DATA_API_PARAMETER, "%(name)s")
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            rows = cursor.fetchall() if cursor.description else []
        return {"numberOfRecordsUpdated": 0, "records": [[{"longValue": r[0]}] for r in rows]}


@pytest.fixture
def owner_url(postgres_server: str) -> Iterator[str]:
    """A database as RDS makes it: its owner may create roles and databases, and no more."""
    name = f"owner_{uuid4().hex[:12]}"
    role = sql.Identifier(name)
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("create role {} login createrole password {}").format(role, OWNER_PASSWORD)
        )
        admin.execute(sql.SQL("create database {} owner {}").format(role, role))
        parts = urlsplit(postgres_server)
        host = f"{parts.hostname}:{parts.port}"
        yield urlunsplit(parts._replace(netloc=f"{name}:{OWNER_PASSWORD}@{host}", path=f"/{name}"))
        admin.execute(sql.SQL("drop database {} with (force)").format(role))
        for (made,) in admin.execute(
            "select m.rolname from pg_auth_members a join pg_roles m on m.oid = a.roleid"
            " join pg_roles o on o.oid = a.member where o.rolname = %s",
            [name],
        ).fetchall():
            admin.execute(sql.SQL("drop role {}").format(sql.Identifier(made)))
        admin.execute(sql.SQL("drop role {}").format(role))


def _json(document: object, *, status: int = 200) -> Response:
    return Response(json.dumps(document).encode(), status, "application/json")


@pytest.fixture
def aws(owner_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    aws = Aws(owner_url)

    def answer(request: Request) -> Response:
        body = json.loads(request.body)
        if request.method == "PUT":  # to CloudFormation, at its presigned address
            aws.answers.append(body)
            return _json({})
        try:
            return _json(aws.execute(body))
        except psycopg.Error as error:
            refusal = {"__type": "BadRequestException", "message": str(error)}
            return _json(refusal, status=400)

    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with serving(answer) as aws.url:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL_RDS_DATA": aws.url,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://{host}:{port}",
        }.items():
            monkeypatch.setenv(name, value)
        yield aws
    moto.stop()


@pytest.fixture
def program() -> ModuleType:
    """What CloudFormation would put into index.py."""
    resources = load(ROOT / "database.yaml")["Resources"]
    module = ModuleType("index")
    source = resources["AppRoleFunction"]["Properties"]["Code"]["ZipFile"]
    exec(compile(source, "index.py", "exec"), vars(module))  # noqa: S102 - the program under test
    return module


@dataclass(frozen=True)
class Login:
    username: str
    password: str


@pytest.fixture
def login() -> Login:
    """What Secrets Manager would have made up."""
    return Login(f"app_{uuid4().hex[:12]}", uuid4().hex)


def ask(aws: Aws, program: ModuleType, login: Login, kind: str = "Create") -> dict[str, Any]:
    """One request of CloudFormation, and the answer to it."""
    secrets = boto3.client("secretsmanager")
    text = json.dumps({"username": login.username, "password": login.password})
    arn = secrets.create_secret(Name=uuid4().hex, SecretString=text)["ARN"]
    properties = {
        "ClusterArn": "arn:aws:rds:eu-central-1:123456789012:cluster:billing",
        "OwnerSecretArn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:owner-abcdef",
        "RoleSecretArn": arn,
        "Database": urlsplit(aws.owner_url).path[1:],
        "Connections": "7",
    }
    event = {
        "RequestType": kind,
        "ResponseURL": f"{aws.url}/answer",
        "StackId": "arn:stack",
        "RequestId": "request-1",
        "LogicalResourceId": "AppRole",
        "ResourceProperties": properties,
    }
    program.handler(event, None)
    return aws.answers[-1]


def connect(aws: Aws, login: Login) -> psycopg.Connection:
    parts = urlsplit(aws.owner_url)
    return psycopg.connect(
        host=parts.hostname,
        port=parts.port,
        dbname=parts.path[1:],
        user=login.username,
        password=login.password,
    )


class TestAppRole:
    def test_it_logs_in_with_its_limits(self, aws: Aws, program: ModuleType, login: Login) -> None:
        """Whoever connects as this role is held to them, through a pooler too."""
        assert ask(aws, program, login)["Status"] == "SUCCESS"
        with connect(aws, login) as connection:
            limits = {
                name: connection.execute(f"show {name}").fetchone()
                for name in (
                    "statement_timeout",
                    "timezone",
                    "datestyle",
                    "default_transaction_isolation",
                    "search_path",
                    "lock_timeout",
                    "idle_in_transaction_session_timeout",
                    "idle_session_timeout",
                )
            }
            allowed = connection.execute(
                "select rolconnlimit, rolcreaterole, rolsuper from pg_roles"
                " where rolname = current_user"
            ).fetchone()
        assert limits == {
            "statement_timeout": ("7s",),
            "timezone": ("UTC",),
            "datestyle": ("ISO, MDY",),
            "default_transaction_isolation": ("read committed",),
            "search_path": ("public",),
            "lock_timeout": ("5s",),
            "idle_in_transaction_session_timeout": ("30s",),
            "idle_session_timeout": ("15min",),
        }
        assert allowed == (7, False, False)

    def test_the_password_is_in_no_statement(
        self, aws: Aws, program: ModuleType, login: Login
    ) -> None:
        """Statements are logged, by Postgres and by whoever looks over its shoulder."""
        ask(aws, program, login)
        assert any("SCRAM-SHA-256$" in statement for statement in aws.statements)
        assert not any(login.password in statement for statement in aws.statements)

    def test_the_owner_has_a_limit_too(self, aws: Aws, program: ModuleType, login: Login) -> None:
        """A statement of its nobody waits for any more keeps locks all the same."""
        assert ask(aws, program, login)["Status"] == "SUCCESS"
        with psycopg.connect(aws.owner_url) as connection:
            assert connection.execute("show statement_timeout").fetchone() == ("15min",)

    def test_a_second_time_it_takes_the_new_password(
        self, aws: Aws, program: ModuleType, login: Login
    ) -> None:
        """An update finds the role there. The one before is refused then."""
        ask(aws, program, login)
        changed = Login(login.username, uuid4().hex)
        assert ask(aws, program, changed, "Update")["Status"] == "SUCCESS"
        connect(aws, changed).close()
        with pytest.raises(psycopg.OperationalError, match="password"):
            connect(aws, login)

    def test_a_deletion_leaves_it(self, aws: Aws, program: ModuleType, login: Login) -> None:
        """Its rights hang on every table."""
        ask(aws, program, login)
        before = list(aws.statements)
        assert ask(aws, program, login, "Delete")["Status"] == "SUCCESS"
        assert aws.statements == before
        connect(aws, login).close()

    def test_a_failure_is_told(
        self, aws: Aws, program: ModuleType, login: Login, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Else CloudFormation waits for as long as it may."""
        aws.owner_url = aws.owner_url.replace(f":{OWNER_PASSWORD}@", ":wrong@")
        answer = ask(aws, program, login)
        assert answer["Status"] == "FAILED"
        assert "BadRequestException" in answer["Reason"]
        assert login.password not in capsys.readouterr().out
