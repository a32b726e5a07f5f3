"""The life of one stack, from `make deploy` to `make delete`, as docs/deploy.md tells it."""

import hashlib
import json
import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from local.ports import Port, free_port
from tests.deployed import bus, database, emulator, faults, story
from tests.deployed.commet import Commet
from tests.deployed.database import ACCOUNTS, APP, OWNER, Database
from tests.deployed.errors import Failed
from tests.deployed.front import Front
from tests.deployed.laps import Laps
from tests.deployed.places import REGION
from tests.deployed.stack import NAME, Build, Project, Stack
from tests.deployed.watch import Seen

_ORIGIN = "https://app.example.com"
_SIGN_UPS_PER_HOUR = 12
# What the story makes true, among other things.
_EVENTS = {"user.registered", "access.granted", "usage.threshold_reached", "subscription.changed"}
_MISSING = f"arn:aws:secretsmanager:{REGION}:000000000000:secret:{NAME}-missing-AbCdEf"


def live(directory: Path, laps: Laps) -> None:
    """Runs all of it. All files are below `directory`. Raises Failed and Skipped."""
    with ExitStack() as running:
        server = running.enter_context(database.running(directory / "postgres"))
        project = Project(server.ca)
        build = Build(directory)
        if emulator.install():
            laps.done("the emulator is installed, while the first release is built")
        port = free_port(Port())
        front = running.enter_context(Front(port).running())
        running.enter_context(emulator.running(directory, port, front.port))
        commet = running.enter_context(Commet(front.address, directory))
        laps.done("emulator, Postgres over TLS and the stand-in for Commet run")
        build.wait()
        laps.done("the first release is built")
        _Life(front, server, commet, project, directory, laps).live()


class _Life:
    """One stack and everything that it works with."""

    def __init__(  # noqa: PLR0917 - all that a stack works with
        self,
        front: Front,
        server: Database,
        commet: Commet,
        project: Project,
        directory: Path,
        laps: Laps,
    ) -> None:
        self._front = front
        self._server = server
        self._commet = commet
        self._project = project
        self._stack = Stack(front, directory)
        self._done = laps.done
        self._secrets = front.client("secretsmanager")
        self._people: story.People
        self._listener: bus.Listener
        # Ids of events from before there was a bus, and the place in the log of the newest of them.
        self._earlier: set[str]
        self._place: int

    def live(self) -> None:
        self._check_roles_are_enforced()
        self._create()
        try:
            faults.check(self._front)
            self._done("the emulator still has every fault that is adapted to")
            self._people.warm_up()
            story.tell(self._front, self._commet, self._stack.invoke, schedules_fire=True)
            self._done("the story through API and function URL, its schedules fired by themselves")
            self._update()
            self._fail()
            self._hear()
            self._refuse_an_old_build_id()
            self._rotate()
            self._people.warm_up()
            story.tell(self._front, self._commet, self._stack.invoke, to_the_last_bill=True)
            self._done("the story again, to the last bill")
            self._cause_alarms()
        finally:
            self._people.close()
        self._prune()
        self._delete()

    def _check_roles_are_enforced(self) -> None:
        """A caller without rights gets nothing. Otherwise the run would prove nothing of roles."""
        iam = self._front.client("iam")
        iam.create_user(UserName="nobody")
        key = iam.create_access_key(UserName="nobody")["AccessKey"]
        client = self._front.client("secretsmanager", key)
        try:
            client.list_secrets()
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] == "AccessDeniedException":
                return
            raise
        raise Failed("the emulator does not enforce IAM: a user without rights may list secrets")

    def _create(self) -> None:
        hashed = hashlib.sha256(story.SERVICE_KEY.encode()).hexdigest()
        key = {"name": "shop", "sha256": hashed, "scopes": ["usage:write", "read"]}
        parameters = {
            "CommetBaseUrl": self._commet.base_url,
            "CommetMode": "sandbox",
            "CommetSecretArn": self._secret("commet", {"api_key": self._commet.api_key}),
            "ServiceKeysSecretArn": self._secret("service-keys", {"keys": [key]}),
            "DatabaseHost": "localhost",
            "DatabasePort": str(self._server.port),
            "DatabaseName": database.NAME,
            "DatabaseSecretArn": self._secret("database", self._login(APP)),
            "DatabaseAccountsSecretArn": self._secret("database-accounts", self._login(ACCOUNTS)),
            "DatabaseOwnerSecretArn": self._secret("database-owner", self._login(OWNER)),
            "AppUrl": f"{_ORIGIN}/billing",
            "AllowedOrigins": _ORIGIN,
            "Architecture": "x86_64",
            "RunbookUrl": "https://wiki.example.com/operations.md",
            "DeliveryIntervalSeconds": "1",
            "SignUpsPerHour": str(_SIGN_UPS_PER_HOUR),
        }
        self._stack.deploy(parameters)
        outputs = self._stack.outputs()
        self._front.api_id = outputs["ApiUrl"].removeprefix("https://").partition(".")[0]
        self._people = story.People(self._front, outputs["WebhookUrl"])
        registered = [each["url"] for each in self._commet.endpoints()]
        _is("the endpoints at Commet", registered, [outputs["WebhookUrl"]])
        _is("the health check", self._people.health(), 200)
        self._people.check_cors(_ORIGIN)
        _is("the versions", set(self._stack.aliased().values()), {1})
        self._done("make deploy creates the stack")

    def _update(self) -> None:
        """Two parameters change, too. With SnapStart the emulator starts each version at once."""
        _is("the parts of a bus", bus.parts(self._front), [])
        self._earlier = {
            str(id_) for (id_,) in self._server.rows("select id::text from outgoing_event")
        }
        table = self._project.next_release()
        self._stack.deploy({"SnapStart": "None", "EventBus": "own"})
        self._check_release(2, table)
        _is("the versions", set(self._stack.aliased().values()), {2})
        _is("the bus", self._stack.outputs()["EventBusArn"].rpartition("/")[2], bus.BUS)
        self._listener = bus.Listener(self._front)
        self._stack.invoke("SendEventsFunction")  # a bus gets the events from its first run on
        newest = "select coalesce(max(place), 0) from outgoing_event"
        ((place,),) = self._server.rows(newest)
        self._place = int(str(place))
        self._done("make deploy updates it: new code in the layer, a new table, an event bus")

    def _fail(self) -> None:
        """New code with a secret that does not exist. The new table stays, the code does not."""
        table = self._project.next_release()
        before = self._stack.parameters()
        self._stack.deploy({"CommetSecretArn": _MISSING}, fails=True)
        _is("the status", self._stack.status(), "UPDATE_ROLLBACK_COMPLETE")
        if f"{NAME}-missing" not in self._stack.reasons():
            raise Failed(f"no reason names the missing secret:\n{self._stack.reasons()}")
        _is("the parameters", self._stack.parameters(), before)
        self._check_release(2, table)
        self._done("an update that fails is rolled back, and its reason names the missing secret")
        self._people.warm_up()
        story.tell(self._front, self._commet, self._stack.invoke)
        self._done("the story again, on what was rolled back")

    def _hear(self) -> None:
        """What the last story made true came over the bus. Nothing came from before the bus."""
        _is("the parts of a bus", bus.parts(self._front), list(bus.PARTS))
        told = self._people.events(self._place)
        self._stack.invoke("SendEventsFunction")
        heard = self._listener.heard()
        self._listener.close()
        missing = [each["type"] for id_, each in told.items() if heard.get(id_) != each]
        _is("the events that did not come over the bus", missing, [])
        _is("the types that are missing", _EVENTS - {e["type"] for e in told.values()}, set())
        _is("the events from before the bus", heard.keys() & self._earlier, set())
        self._done(f"{len(heard)} events came over the stack's bus to a queue behind a rule")

    def _refuse_an_old_build_id(self) -> None:
        build_id = self._stack.parameters()["BuildId"]
        self._stack.deploy_by_hand(build_id, fails=True)
        if "The code changed, but BuildId did not" not in self._stack.reasons():
            raise Failed(f"no reason names the build id:\n{self._stack.reasons()}")
        _is("the status", self._stack.status(), "UPDATE_ROLLBACK_COMPLETE")
        _is("the release", self._people.release(), _title(2))
        self._done("new code under an old build id is refused")

    def _rotate(self) -> None:
        """The webhook's secret by a deployment, which also repeats what was rolled back."""
        before = self._stack.webhook_secrets()
        self._stack.deploy({"WebhookSecretRotation": "2026-10"})
        self._check_release(3, "deploy_test_3")
        after = self._stack.webhook_secrets()
        if after[0] in before or before[0] not in after:
            raise Failed("the webhook has no new secret, or no longer accepts the one before")
        _is("the endpoints at Commet", len(self._commet.endpoints()), 1)
        self._done("make deploy repeats what was rolled back, and rotates the webhook's secret")
        self._rotate_by_hand()
        self._done("the database password and Commet's API key are rotated")

    def _rotate_by_hand(self) -> None:
        """As docs/deploy.md says. No request fails between the steps."""
        _is("a request", self._people.users(), 404)
        password = secrets.token_hex(16)
        login = json.dumps({"username": APP, "password": password})
        where = {"SecretId": "billing/database", "SecretString": login}
        self._secrets.put_secret_value(**where, VersionStages=["AWSPENDING"])
        self._server.change_password(APP, password)
        _is("a request with the pending password", self._people.users(), 404)
        self._secrets.put_secret_value(**where)
        _is("a request with the new password", self._people.users(), 404)
        key = f"ck_sandbox_{secrets.token_hex(8)}"
        self._secrets.put_secret_value(
            SecretId="billing/commet", SecretString=json.dumps({"api_key": key})
        )
        self._commet.use_key(key)

    def _cause_alarms(self) -> None:
        """Then every alarm's metric was written, and no function called what it may not call."""
        self._people.cause_alarms(self._commet, self._stack.webhook_secrets()[0])
        self._server.change_password(APP, secrets.token_hex(16))
        _is("a request with a wrong password", self._people.users(), 503)
        _is("the health check with a wrong password", self._people.health(), 503)
        self._secrets.put_secret_value(
            SecretId="billing/database", SecretString=json.dumps(self._login(APP))
        )
        _is("a request with the right password", self._people.users(), 404)
        self._done("the faults that alarms wait for")
        seen = Seen()
        seen.read(self._front)
        seen.check(self._front, self._stack.template(), NAME)
        self._done(
            f"{len(seen.metrics)} metrics were written, every alarm watches one of them;"
            f" functions called {', '.join(sorted(self._front.actions))}"
        )

    def _prune(self) -> None:
        before = sum(self._stack.versions().values())
        self._stack.prune(1)
        after = self._stack.versions()
        if max(after.values()) > 2 or sum(after.values()) >= before:
            raise Failed(f"make prune left {after}, and there were {before} versions")
        _is("the release", self._people_release(), _title(3))
        self._done(f"make prune KEEP=1 leaves {sum(after.values())} of {before} versions")

    def _people_release(self) -> str:
        people = story.People(self._front, "https://none.example/")
        try:
            return people.release()
        finally:
            people.close()

    def _delete(self) -> None:
        logs = self._stack.log_groups()
        # What is remembered of erased people can be compared after the stack, too.
        people = self._stack.secret_name("PeopleSecret")
        _is("the log groups", len(logs), len(self._stack.functions()))
        self._stack.delete()
        _is("the status", self._stack.status() or "DELETE_COMPLETE", "DELETE_COMPLETE")
        _is("the endpoints at Commet", self._commet.endpoints(), [])
        _is("the functions", self._stack.functions(), [])
        _is("the parts of the bus", bus.parts(self._front), [])
        listed = self._secrets.list_secrets()["SecretList"]
        left = [each["Name"] for each in listed if "DeletedDate" not in each]
        _is("the deployer's secrets", len([n for n in left if n.startswith("billing/")]), 5)
        _is("the other secrets", [n for n in left if not n.startswith("billing/")], [people])
        _is("the log groups that stay", self._stack.log_groups(), logs)
        self._stack.delete(logs="delete")
        _is("the log groups", self._stack.log_groups(), [])
        if self._server.rows("select count(*) from users") == [(0,)]:
            raise Failed("the users were deleted")
        self._done(
            "make delete removes the stack, its endpoint at Commet and, if asked to, its logs"
        )

    def _check_release(self, number: int, table: str) -> None:
        """The API answers with the code of this release, and the app's role may use the table."""
        _is("the release", self._people.release(), _title(number))
        allowed = self._server.rows(f"select has_table_privilege('{APP}', '{table}', 'insert')")
        _is(f"whether {APP} may write to {table}", allowed, [(True,)])

    def _secret(self, name: str, content: object) -> str:
        made = self._secrets.create_secret(Name=f"billing/{name}", SecretString=json.dumps(content))
        return str(made["ARN"])

    def _login(self, role: str) -> dict[str, str]:
        return {"username": role, "password": self._server.passwords[role]}


def _title(release: int) -> str:
    changes = "".join(f" in release {number}," for number in range(release, 1, -1))
    return f"There is nothing at this address{changes}"


def _is(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise Failed(f"{what}: {found!r}, not {expected!r}")
