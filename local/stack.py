"""Runs the whole product on this machine: Postgres, the Commet stand-in and the gateway.

    with LocalStack() as stack:
        httpx.get(f"{stack.api}/health")

Without arguments, the stack uses free ports and temporary data, which it removes at the end.
"""

import contextlib
import json
import os
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from local.commet_key import SANDBOX_BASE_URL, check_sandbox_key
from local.gateway.debugging import PATIENT_SECONDS, Debugging, DebuggingError, named
from local.gateway.journal import Journal
from local.gateway.logs import Log
from local.gateway.server import Gateway
from local.gateway.skipping import SkipError
from local.gateway.template import (
    ACCOUNT_ID,
    REGION,
    Template,
    import_sam_cli,
    load_template,
)
from local.locks import HeldError, hold
from local.ports import Port, free_port
from local.postgres import EmbeddedPostgres
from local.routines import RoutinesWatch
from local.standin import StandIn, StandInClock, StandInError
from local.state import Kept, hide, show

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "template.yaml"
WEBHOOK_FUNCTION = "WebhookFunction"
MIGRATE_FUNCTION = "MigrateFunction"
REGISTER_WEBHOOK_FUNCTION = "RegisterWebhookFunction"
PAGES_FUNCTION = "PagesFunction"

_WEBHOOK_SECRET = "local/webhook"  # noqa: S105 - its name
_DATABASE = "billing"
_ROLES = {"owner": "billing_owner", "app": "billing_app", "accounts": "billing_accounts"}
_POLL_SECONDS = 0.5
# Functions that run before and after time is skipped. The other schedules follow soon.
_SCHEDULED = ("DeliverUsageFunction", "ReconcileFunction")
# Parameters that are amounts by currency, and the currencies for which the template has amounts.
_AMOUNTS = ("OverageCeiling", "DeliverAtOnceFrom", "DebtFloor")
_CURRENCIES_WITH_AMOUNTS = ("usd", "eur", "gbp")
_USUAL_NAME = ".local"  # of the data directory


class StackError(Exception):
    """The stack could not be started, or a part of it has ended. The message is for people."""


class FunctionFailedError(StackError):
    """A function raised an error: `kind` is the error's class, `message` its text."""

    def __init__(self, function: str, kind: str, message: str) -> None:
        super().__init__(f"{function}: {kind}: {message}")
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class Database:
    """The address of the functions' database, and the logins of its owner and its two roles."""

    host: str
    port: int
    name: str
    sslmode: str
    owner: dict[str, str]
    app: dict[str, str]
    accounts: dict[str, str]

    @property
    def url(self) -> str:
        """The connection URL of the tables' owner, with the password, for scripts."""
        user, password = (quote(self.owner[part], safe="") for part in ("username", "password"))
        login = f"{user}:{password}" if password else user
        host = quote(self.host, safe="")
        return f"postgresql://{login}@{host}:{self.port}/{quote(self.name)}?sslmode={self.sslmode}"


class LocalStack:
    """The local stack. It runs from `start` to `stop`, and ends whenever this process ends.

    `database_url` names a server to use; only our tables are created in it. With the sandbox key
    `commet_api_key`, Commet itself is used, and its webhooks have to be relayed, signed with
    `webhook_secret`. `catalogue` is a YAML or JSON file with plans for the stand-in to sell,
    `currency` is that of all prices, and `commet_options` are further flags of the stand-in.
    `parameters` are parameters of the template. With `fast`, Postgres may lose data in a
    power cut. The function that `debug` names waits for a debugger at `debug_port`, and nothing
    limits its time. `schedule_minute_seconds` says how many seconds a minute of the schedules
    takes; with None no schedule fires. `say` is called with one line for each step.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        port: Port | None = None,
        commet_port: Port | None = None,
        database_url: str | None = None,
        commet_api_key: str | None = None,
        webhook_secret: str | None = None,
        template: Path = TEMPLATE,
        python: str | None = None,
        schedule_minute_seconds: float | None = 2,
        catalogue: Path | None = None,
        currency: str = "usd",
        commet_options: Sequence[str] = (),
        parameters: dict[str, str] | None = None,
        fast: bool = False,
        debug: str | None = None,
        debug_port: int = 5678,
        log: Log | None = None,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._data_dir = data_dir
        self._port = port or Port()
        self._commet_port = commet_port or Port()
        self._database_url = database_url
        self._sandbox_key = check_sandbox_key(commet_api_key) if commet_api_key else None
        self._webhook_secret = webhook_secret
        self._template = template
        self._python = python
        self._schedule_minute_seconds = schedule_minute_seconds
        self._catalogue = catalogue
        self._currency = currency
        self._commet_options = commet_options
        self._parameters = parameters or {}
        self._fast = fast
        self._debug = debug
        self._debug_port = debug_port
        self._say = say
        self._closing = contextlib.ExitStack()
        self._standin: StandIn | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._clock: StandInClock | None = None
        self._gateway: Gateway
        self._skipping = threading.Lock()
        self._has_pages = False
        self.log = log or Log()
        self.data_dir: Path
        self.commet = SANDBOX_BASE_URL
        self.commet_api_key = ""
        self.webhook_secret = ""
        self.service_key = ""
        self.database_url = ""

    @property
    def api(self) -> str:
        """The address of the HTTP API."""
        return self._gateway.url

    @property
    def pages(self) -> str | None:
        """The address of the pages for people; None if the stack has none."""
        return self.api if self._has_pages else None

    @property
    def function_url(self) -> str:
        """The webhook function's own URL."""
        return self._gateway.function_url(WEBHOOK_FUNCTION)

    @property
    def mailbox(self) -> str:
        """The address of the mailbox, which has the mails that the stack has sent."""
        return f"{self.api}/_mail"

    @property
    def events(self) -> str:
        """The address of the page that shows outgoing events and their deliveries."""
        return f"{self.api}/_events"

    @property
    def lambda_url(self) -> str:
        """The address of Lambda's Invoke API, for functions without a route."""
        return self._gateway.lambda_url

    @property
    def selling(self) -> str:
        """The plans that the stand-in sells, and their currency, for people."""
        currency = self._currency.upper()
        if self._catalogue:
            return f"the plans of {self._catalogue}, in {currency}"
        hint = "CATALOGUE=plans.yaml CURRENCY=eur make run sells yours"
        return f"the built-in plans, in {currency}  ({hint})"

    @property
    def uses_standin(self) -> bool:
        return self._sandbox_key is None

    def invoke(self, function: str, event: Any = None) -> Any:
        """Invokes a function directly. Returns its answer. Raises FunctionFailedError."""
        result = self._gateway.invoke(function, {} if event is None else event)
        answer = json.loads(result.payload)
        if result.failed:
            kind, message = answer.get("errorType"), answer.get("errorMessage")
            raise FunctionFailedError(function, str(kind), str(message))
        return answer

    def confirm_address(self, user_id: str) -> None:
        """Marks the address of an own account as confirmed, with an operator's command."""
        why = {"author": "local stack", "note": "nobody reads mail here"}
        self.invoke("SendMailFunction", {"command": "verify_address", "user": user_id, **why})

    def start(self) -> None:
        """Starts everything. Returns once requests are served.

        Raises StackError, PortTakenError, PostgresError and StandInError.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops everything, in an order that loses no data."""
        self._closing.close()

    def wait(self) -> None:
        """Waits while all parts run. Raises StackError when a part has ended."""
        while True:
            time.sleep(_POLL_SECONDS)
            if self._standin and self._standin.ended() is not None:
                raise StackError("The Commet stand-in has ended.")
            if self._postgres and self._postgres.ended():
                raise StackError(f"Postgres has ended; see {self.data_dir}/postgres.log.")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self.data_dir = self._own_data_dir()
        kept = Kept(self.data_dir)
        self.service_key = kept["service_key"]
        listener = self._closing.enter_context(self._port.listen())
        port = listener.getsockname()[1]
        self._mention_moved("API", self._port, port)
        # Importing SAM CLI takes as long as starting the other parts, so both happen at the same
        # time.
        with ThreadPoolExecutor() as pool:
            database = pool.submit(self._start_database, kept)
            standin = pool.submit(self._start_standin) if self.uses_standin else None
            pool.submit(import_sam_cli)
            reachable = database.result()
            if standin:
                self._standin = standin.result()
        self.database_url = reachable.url
        if self._standin:
            self.commet, self.commet_api_key = self._standin.base_url, self._standin.api_key
            self._clock = StandInClock(self._standin.public_url)
            self._closing.callback(self._clock.close)
        else:
            self.commet_api_key = self._sandbox_key or ""
        secrets = self._secrets(kept, reachable)
        template = load_template(self._template, self._template_parameters(port, reachable))
        self._has_pages = PAGES_FUNCTION in template.functions
        self._journal()
        self._gateway = Gateway(
            template,
            listener=listener,
            secrets=secrets,
            clock=self._clock,
            skip=self._skip if self._clock else None,
            log=self.log,
            python=self._python,
            schedule_minute_seconds=self._schedule_minute_seconds,
            debugging=self._debugging(template),
            database_url=self.database_url,
        )
        self._closing.callback(self._gateway.close)
        with ThreadPoolExecutor() as pool:
            migrations = pool.submit(self.invoke, MIGRATE_FUNCTION)
            if self.uses_standin:
                self.invoke(REGISTER_WEBHOOK_FUNCTION)
                kept["webhook_secret"] = secrets[_WEBHOOK_SECRET]
            applied = self._applied(migrations)
        if self._standin:
            _forget_plans(self.database_url)
        if missing := self._without_amounts():
            currency = self._currency
            self._say(
                f"{', '.join(missing)} have no amount in {currency}, so nothing is limited here."
                f" Give one, such as --parameter {missing[0]}={currency}=500."
            )
        self._say(f"Migrations: {len(applied)} applied." if applied else "Migrations: up to date.")
        self.webhook_secret = next(iter(json.loads(secrets[_WEBHOOK_SECRET])["secrets"]), "")
        self._gateway.start()
        watch = RoutinesWatch(lambda: self.invoke(MIGRATE_FUNCTION), self._say)
        watch.start()
        self._closing.callback(watch.stop)
        self._closing.callback(hide, self.data_dir)
        show(self.data_dir, self.facts())

    def _skip(self, later: Callable[[datetime], datetime]) -> None:
        """Moves the clock, and runs the schedules before and after. Raises SkipError.

        Reported usage is delivered first, so that it is billed in the period in which it was used.
        """
        if self._clock is None:
            raise SkipError("With Commet's sandbox nobody moves the time.")
        with self._skipping:
            try:
                self._run_schedules()
                self._clock.move(later)
                self._run_schedules()
            except (StandInError, FunctionFailedError) as error:
                raise SkipError(str(error)) from error

    def _run_schedules(self) -> None:
        for function in _SCHEDULED:
            self.invoke(function)

    def _journal(self) -> None:
        """Starts writing the log into the data directory."""
        self.log.journal = journal = Journal(self.data_dir)
        self._closing.callback(journal.close)

    def _debugging(self, template: Template) -> Debugging | None:
        if self._debug is None:
            return None
        try:
            return Debugging(named(template.functions, self._debug), self._debug_port)
        except DebuggingError as error:
            raise StackError(str(error)) from None

    def _applied(self, migrations: "Future[Any]") -> list[str]:
        """Returns the names of the applied migrations.

        Raises StackError if the data is too old for this version. The message has a command that
        helps.
        """
        try:
            return migrations.result().get("applied") or []
        except FunctionFailedError as failed:
            if failed.kind != "MigrationChanged":
                raise
            if self._database_url:
                place, way_out = "that DATABASE_URL names", "Name an empty database."
            elif self.data_dir.name == _USUAL_NAME:
                place = f"in {self.data_dir}"
                way_out = f"Start afresh: rm -rf {shlex.quote(str(self.data_dir))}"
            else:  # the directory may contain files other than the stack's
                place = f"in {self.data_dir}"
                way_out = "Remove the stack's data there, or choose another directory (DATA_DIR)."
            raise StackError(
                f"The database {place} was made by another version of this project, "
                f"and this version cannot bring it up to date: {failed.message} {way_out}"
            ) from failed

    def facts(self) -> dict[str, Any]:
        """The content of `stack.json`: addresses and keys of the running stack."""
        return {
            "api": self.api,
            "function_url": self.function_url,
            "commet": self.commet,
            "commet_api_key": self.commet_api_key,
            "webhook_secret": self.webhook_secret,
            "service_key": self.service_key,
            "database_url": self.database_url,
            "lambda": self.lambda_url,
            "mailbox": self.mailbox,
            "events": self.events,
        }

    def _own_data_dir(self) -> Path:
        """Returns the data directory, locked for this process. Raises StackError if it is in use.

        Other users may enter a temporary directory, because Postgres may run as `nobody`.
        """
        if self._data_dir is None:
            place = Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="stack-")))
            place.chmod(0o755)
        else:
            place = self._data_dir.resolve()
            # Only we may read it. If we are root, Postgres runs as `nobody`, which must be able to
            # enter subdirectories.
            mode = 0o711 if os.geteuid() == 0 else 0o700
            place.mkdir(mode=mode, parents=True, exist_ok=True)
        try:
            self._closing.enter_context(hold(place / "stack.lock"))
        except HeldError as held:
            raise StackError(
                f"Process {held.owner} already runs the stack on {place}. "
                "Stop it, or choose another data directory (DATA_DIR)."
            ) from None
        return place

    def _start_database(self, kept: Kept) -> Database:
        if self._database_url:
            return _users_own_database(self._database_url)
        postgres = EmbeddedPostgres(self.data_dir, fast=self._fast)
        self._closing.callback(postgres.stop)
        postgres.start()
        self._postgres = postgres
        logins = {
            role: {"username": name, "password": kept[f"{role}_password"]}
            for role, name in _ROLES.items()
        }
        for login in logins.values():
            postgres.ensure_role(login["username"], login["password"])
        postgres.ensure_database(_DATABASE, owner=_ROLES["owner"])
        self._say(f"Postgres listens on port {postgres.port}.")
        host, port = "127.0.0.1", postgres.port
        return Database(host, port, _DATABASE, "disable", **logins)

    def _start_standin(self) -> StandIn:
        # If any port will do, the stand-in takes one itself: no other program can be faster.
        port = free_port(self._commet_port) if self._commet_port.number else 0
        self._mention_moved("Commet stand-in", self._commet_port, port)
        data = self.data_dir / "commet.sqlite"
        options = ["--currency", self._currency, *self._commet_options]
        if self._debug:  # it may be the function that takes Commet's webhooks
            options += ["--webhook-timeout", str(PATIENT_SECONDS)]
        if self._catalogue:
            options += ["--catalogue", str(self._catalogue.resolve())]
        try:
            standin = StandIn(port, data, self.log, options)
        except StandInError as error:
            if not error.start_anew:
                raise
            raise StandInError(f"{error}, or start anew: {self._start_anew()}") from None
        self._closing.callback(standin.close)
        return standin

    def _start_anew(self) -> str:
        """Returns the command that deletes all data, and what the user has to empty in addition."""
        command = f"rm -rf {shlex.quote(str(self._data_dir or self.data_dir))}"
        return (
            f"{command}, and empty the database of DATABASE_URL" if self._database_url else command
        )

    def _mention_moved(self, what: str, wish: Port, port: int) -> None:
        if wish.number not in {0, port}:
            self._say(f"Port {wish.number} is taken; {what} listens on {port} instead.")

    def _secrets(self, kept: Kept, database: Database) -> dict[str, str]:
        # Without a secret, no webhook is accepted. A default secret would be known to everybody.
        relayed = [self._webhook_secret] if self._webhook_secret else []
        return {
            _WEBHOOK_SECRET: (
                kept["webhook_secret"] if self.uses_standin else json.dumps({"secrets": relayed})
            ),
            "local/app": kept["app_secret"],
            "local/people": kept["people_secret"],
            "local/commet": json.dumps({"api_key": self.commet_api_key}),
            "local/database": json.dumps(database.app),
            "local/database-accounts": json.dumps(database.accounts),
            "local/database-owner": json.dumps(database.owner),
            "local/service-keys": kept.service_keys(),
        }

    def _template_parameters(self, port: int, database: Database) -> dict[str, str]:
        return {
            "BuildId": "0" * 16,
            "CommetBaseUrl": self.commet,
            "CommetMode": "sandbox",
            "CommetSecretArn": "local/commet",
            "WebhookSecretArn": _WEBHOOK_SECRET,
            "ServiceKeysSecretArn": "local/service-keys",
            "AppSecretArn": "local/app",
            "PeopleSecretArn": "local/people",
            "DatabaseHost": database.host,
            "DatabasePort": str(database.port),
            "DatabaseName": database.name,
            "DatabaseSslMode": database.sslmode,
            "DatabaseSecretArn": "local/database",
            "DatabaseAccountsSecretArn": "local/database-accounts",
            "DatabaseOwnerSecretArn": "local/database-owner",
            "EmailFrom": "billing@stack.localhost",
            "EventBus": f"arn:aws:events:{REGION}:{ACCOUNT_ID}:event-bus/local",
            "AppUrl": f"http://127.0.0.1:{port}",
            "RunbookUrl": "https://example.com/operations.md",  # no alarms exist here
            "AllowedOrigins": f"http://127.0.0.1:{port},http://localhost:{port}",
            "DeliveryIntervalSeconds": "2",
            "CommetCallsPerSecond": "200",
            "BillingCurrency": self._currency,
            **self._hosted_origins(),
            **dict.fromkeys(self._without_amounts(), f"{self._currency}=none"),
        } | self._parameters

    def _hosted_origins(self) -> dict[str, str]:
        """The stand-in's origin, where checkout and portal are. For Commet's own, no parameter
        is needed.
        """
        if self._standin is None:
            return {}
        address = urlsplit(self._standin.public_url)
        return {"HostedOrigins": f"{address.scheme}://{address.netloc}"}

    def _without_amounts(self) -> list[str]:
        """Returns the parameters that have no amount in the stack's currency, because nobody
        can guess one.
        """
        if self._currency in _CURRENCIES_WITH_AMOUNTS:
            return []
        return [name for name in _AMOUNTS if name not in self._parameters]


def _forget_plans(url: str) -> None:
    """Makes the first request read the catalogue, because it may have been edited since the last
    run.

    Without this, plans may be a minute old. The stored plans remain, for the case that Commet does
    not answer.
    """
    with psycopg.connect(url, connect_timeout=5) as connection:
        connection.execute("update plans_cache set as_of = timestamptz 'epoch', tried_at = null")


def _users_own_database(url: str) -> Database:
    """Returns the user's own database. Raises StackError, without the password, if it does not
    answer.
    """
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            about = connection.info
            login = {"username": about.user, "password": about.password}
            wanted = str(conninfo_to_dict(url).get("sslmode") or "prefer")
            sslmode = "prefer" if wanted == "allow" else wanted
            return Database(about.host, about.port, about.dbname, sslmode, login, login, login)
    except psycopg.Error as error:
        raise StackError(f"DATABASE_URL cannot be used: {error}") from error
