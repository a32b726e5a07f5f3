"""`make deploy` and `make delete`: what they say, and when they do nothing."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

import deploy.__main__ as program
from deploy import parameters
from deploy.aws import Account, Deployed
from deploy.build_id import ROOT
from deploy.errors import DeployError
from deploy.parameters import Environment
from tests.conftest import SecretsManager

GIVEN = [
    "CommetSecretArn=arn:commet", "ServiceKeysSecretArn=arn:keys", "DatabaseHost=db.example",
    "DatabaseSecretArn=arn:app", "DatabaseAccountsSecretArn=arn:accounts",
    "DatabaseOwnerSecretArn=arn:owner",
    "AppUrl=https://app.example", "AllowedOrigins=https://app.example",
    "RunbookUrl=https://runbook.example",
]  # fmt: skip

Said = Callable[..., tuple[int, str]]
IS_DEPLOYED = program._is_deployed


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs the program; its exit code, and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        code = program.main(arguments)
        out, err = capsys.readouterr()
        return code, out + err

    return run


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, secrets_manager: SecretsManager) -> list[list[str]]:
    """At moto, with everything installed: the commands that would have been run."""
    commands: list[list[str]] = []
    monkeypatch.setattr(program, "_check_tools", lambda: None)
    monkeypatch.setattr(program, "_run", lambda command, _: commands.append(list(command)))
    # The stack becomes what was asked for.
    monkeypatch.setattr(program, "_is_deployed", lambda *_: True)
    monkeypatch.setattr(
        program, "Account", lambda _: Account("eu-central-1", endpoint=secrets_manager.url)
    )
    return commands


def stack_is(monkeypatch: pytest.MonkeyPatch, status: str, **parameters: str) -> None:
    found = Deployed("usage-billing", status, parameters)
    monkeypatch.setattr(Account, "stack", lambda *_: found)


class TestDryRun:
    def test_it_shows_everything_and_calls_nobody(
        self, said: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No credentials, no network, no program."""

        def forbidden(*_: object, **__: object) -> Any:
            raise AssertionError("was called")

        monkeypatch.setattr(program, "Account", forbidden)
        monkeypatch.setattr(subprocess, "run", forbidden)
        code, text = said("up", "--dry-run", *GIVEN, "CommetMode=sandbox", "Architecture=x86_64")
        assert code == 0
        for told in (
            "usage-billing",
            "Commet (sandbox)",
            "make build ARCHITECTURE=x86_64",
            'DatabaseHost="db.example"',
            "USD with 0 usage events",
            "nothing was built",
        ):
            assert told in text

    def test_it_costs_what_was_chosen(self, said: Said) -> None:
        """Whatever is chosen that costs more or less."""

        def costs(*parameters: str) -> str:
            lines = said("up", "--dry-run", *GIVEN, *parameters)[1].splitlines()
            return next(line for line in lines if "USD with 0 usage events" in line)

        warm = "UsageProvisionedConcurrency=10"
        choices = [[], ["SnapStart=None"], [warm], [warm, "Architecture=x86_64"]]
        assert len({costs(*each) for each in choices}) == len(choices)

    def test_what_is_missing_is_said(self, said: Said) -> None:
        code, text = said("up", "--dry-run")
        assert code == 0
        assert "Not in samconfig.toml: CommetSecretArn, ServiceKeysSecretArn" in text

    def test_a_parameter_changes_the_build(self, said: Said) -> None:
        """As it must, or SAM would publish nothing."""
        builds = {
            line.split()[1]
            for mode in ("live", "sandbox")
            for line in said("up", "--dry-run", *GIVEN, f"CommetMode={mode}")[1].splitlines()
            if line.startswith("Build ")
        }
        assert len(builds) == 2


class TestUp:
    def test_a_new_stack(self, said: Said, ran: list[list[str]]) -> None:
        """Built, then deployed, with every value and without SAM's own question."""
        code, text = said("up", "--yes", *GIVEN)
        assert code == 0, text
        assert "will be created" in text
        (build, deploy) = ran
        assert build == ["make", "build", "ARCHITECTURE=arm64"]
        assert deploy[:4] == ["sam", "deploy", "--config-env", "production"]
        assert "--no-confirm-changeset" in deploy
        assert 'DatabaseHost="db.example"' in deploy
        assert any(word.startswith('BuildId="') for word in deploy)

    def test_what_was_deployed_before_is_kept(
        self, said: Said, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only what changes has to be said; a parameter that is no more is not sent."""
        before = dict(word.split("=", 1) for word in GIVEN) | {"BuildId": "0" * 16, "Gone": "x"}
        stack_is(monkeypatch, "UPDATE_COMPLETE", **before)
        code, text = said("up", "--yes", "PastDueHasAccess=false")
        assert code == 0, text
        assert "will be updated" in text
        assert f"replaces {'0' * 16}" in text
        deploy = ran[1]
        assert 'DatabaseHost="db.example"' in deploy
        assert 'PastDueHasAccess="false"' in deploy
        assert not any(word.startswith("Gone") for word in deploy)

    def test_a_deployment_that_was_taken_back_is_another_build(
        self, said: Said, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lambda would not publish the same version twice; nothing but the attempt is new."""
        builds = []
        for status, updated in [
            ("UPDATE_COMPLETE", "2026-10-01"),
            ("UPDATE_COMPLETE", "2026-10-02"),
            ("UPDATE_ROLLBACK_COMPLETE", "2026-10-03"),
            ("UPDATE_ROLLBACK_COMPLETE", "2026-10-04"),
        ]:
            found = Deployed("usage-billing", status, {}, updated)
            monkeypatch.setattr(Account, "stack", lambda *_, found=found: found)
            code, text = said("up", "--yes", *GIVEN)
            assert code == 0, text
            builds.append(next(word for word in ran[-1] if word.startswith("BuildId=")))
        assert builds[0] == builds[1]
        assert len(set(builds[1:])) == 3

    @pytest.mark.parametrize(("answer", "runs"), [("y", 2), ("n", 0), ("", 0)])
    def test_it_asks(
        self,
        said: Said,
        ran: list[list[str]],
        monkeypatch: pytest.MonkeyPatch,
        answer: str,
        runs: int,
    ) -> None:
        """For what is missing, again where it will not do, and whether to go on."""
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        answers = iter(["", "app.example", "https://app.example", answer])
        monkeypatch.setattr("rich.console.Console.input", lambda *_: next(answers))
        code, text = said("up", *(g for g in GIVEN if not g.startswith("AppUrl")))
        assert (code == 0, len(ran)) == (runs == 2, runs)
        assert "AppUrl must match" in text
        assert next(answers, None) is None

    @pytest.mark.parametrize(
        ("status", "told"),
        [
            ("UPDATE_IN_PROGRESS", "Wait"),
            ("ROLLBACK_COMPLETE", "make delete"),
            ("UPDATE_ROLLBACK_FAILED", "docs/upgrade.md"),
        ],
    )
    def test_a_stack_that_cannot_be_deployed(
        self,
        said: Said,
        ran: list[list[str]],
        monkeypatch: pytest.MonkeyPatch,
        status: str,
        told: str,
    ) -> None:
        stack_is(monkeypatch, status)
        code, text = said("up", "--yes", *GIVEN)
        assert (code, ran) == (1, [])
        assert told in text

    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            (Deployed("s"), Deployed("s"), "was not changed"),
            (Deployed("s"), Deployed("s", "ROLLBACK_COMPLETE"), "has rolled back"),
            (
                Deployed("s", "UPDATE_ROLLBACK_COMPLETE", updated="1"),
                Deployed("s", "UPDATE_ROLLBACK_COMPLETE", updated="1"),
                "was not changed",
            ),
            (
                Deployed("s", "UPDATE_ROLLBACK_COMPLETE", updated="1"),
                Deployed("s", "UPDATE_ROLLBACK_COMPLETE", updated="2"),
                "has rolled back",
            ),
            (
                Deployed("s", "CREATE_COMPLETE"),
                Deployed("s", "UPDATE_ROLLBACK_FAILED", updated="1"),
                "is now UPDATE_ROLLBACK_FAILED",
            ),
        ],
    )
    def test_a_failure_says_what_remains(  # noqa: PLR0917 - fixtures and cases
        self,
        said: Said,
        ran: list[list[str]],
        monkeypatch: pytest.MonkeyPatch,
        before: Deployed,
        after: Deployed,
        told: str,
    ) -> None:
        """Taken back is said only where something was."""
        stacks = iter([before, after])
        monkeypatch.setattr(Account, "stack", lambda *_: next(stacks))

        def fail(*_: object) -> None:
            raise DeployError("`sam deploy` failed; see above.")

        monkeypatch.setattr(program, "_run", fail)
        code, text = said("up", "--yes", *GIVEN)
        assert (code, ran) == (1, [])
        assert told in text

    @pytest.mark.parametrize(("limit", "warnings"), [(10, 1), (99, 1), (100, 0), (None, 0)])
    def test_an_account_that_runs_few_functions(
        self,
        said: Said,
        ran: list[list[str]],
        monkeypatch: pytest.MonkeyPatch,
        limit: int | None,
        warnings: int,
    ) -> None:
        """The webhook's public URL may take all of them."""
        monkeypatch.setattr(Account, "concurrency", lambda _: limit)
        code, text = said("up", "--yes", *GIVEN)
        assert (code, len(ran)) == (0, 2)
        assert text.count("functions run at once") == warnings

    def test_nobody_to_ask(self, said: Said, ran: list[list[str]]) -> None:
        """A pipeline says --yes, or would hang."""
        code, text = said("up", *GIVEN)
        assert (code, ran) == (1, [])
        assert "--yes" in text

    def test_the_wrong_python(self, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "version_info", (3, 12, 1))
        code, text = said("up", "--yes", *GIVEN)
        assert code == 1
        assert "this is Python 3.12" in text

    def test_no_sam(self, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "version_info", (3, 13, 1))
        monkeypatch.setattr(program, "_sam", lambda: None)
        code, text = said("up", "--yes", *GIVEN)
        assert code == 1
        assert "make setup" in text


class TestRefusals:
    """What would fail after a build of minutes is said before it."""

    @pytest.mark.parametrize(
        "host",
        [
            "billing.cluster-x.il-central-1.rds.amazonaws.com",
            "billing.x.us-gov-west-1.rds.amazonaws.com",
            "billing.x.rds.cn-north-1.amazonaws.com.cn",
        ],
    )
    def test_a_region_whose_ca_is_not_shipped(
        self, said: Said, ran: list[list[str]], host: str
    ) -> None:
        code, text = said("up", "--yes", *GIVEN, f"DatabaseHost={host}")
        assert (code, ran) == (1, [])
        assert "no CA of RDS in" in text
        assert host.split(".")[-4] in text or "cn-north-1" in text

    @pytest.mark.parametrize("given", ["DatabaseCa=public", "DatabaseSslMode=require"])
    def test_who_verifies_otherwise_may_be_anywhere(
        self, said: Said, ran: list[list[str]], given: str
    ) -> None:
        host = "billing.x.il-central-1.rds.amazonaws.com"
        said("up", "--yes", *GIVEN, f"DatabaseHost={host}", given)
        assert len(ran) == 2

    @pytest.mark.parametrize(
        "given",
        ["WebhookConcurrency=0", "RunbookUrl=docs/operations.md"],
    )
    def test_a_value_that_does_harm(self, said: Said, ran: list[list[str]], given: str) -> None:
        code, text = said("up", "--yes", *GIVEN, given)
        assert (code, ran) == (1, [])
        assert f"{given.split('=', maxsplit=1)[0]} must match" in text


class TestFailure:
    """What became of the stack is looked up, not believed."""

    def test_of_the_build(
        self,
        said: Said,
        ran: list[list[str]],  # noqa: ARG002 - at moto
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Nothing was there to be taken back."""

        def fails(command: list[str], _: str) -> None:
            raise DeployError(f"`{' '.join(command[:2])}` failed; see above.")

        monkeypatch.setattr(program, "_run", fails)
        code, text = said("up", "--yes", *GIVEN)
        assert code == 1
        assert "`make build` failed" in text
        assert "back" not in text.split("Stopped:")[1]

    def test_a_no_to_sams_own_question_is_no_success(
        self, said: Said, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SAM ends without an error then."""
        monkeypatch.setattr(Account, "stack", lambda *_: Deployed("usage-billing"))
        monkeypatch.setattr(program, "_is_deployed", IS_DEPLOYED)
        code, text = said("up", "--yes", *GIVEN)
        assert (code, len(ran)) == (1, 2)
        assert "Nothing was deployed" in text
        assert "The stack is deployed" not in text


class TestAccount:
    @pytest.fixture(autouse=True)
    def _nobody(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        """Neither keys nor a profile, nor a machine's own role."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def test_no_credentials(self) -> None:
        with pytest.raises(DeployError, match="aws configure"):
            Account("eu-central-1").identity()

    def test_no_region(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        with pytest.raises(DeployError, match="AWS_DEFAULT_REGION"):
            Account(None)

    def test_no_such_profile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(DeployError, match="nobody"):
            Account("eu-central-1").identity()


class TestStack:
    """At moto."""

    @pytest.fixture
    def account(self, secrets_manager: SecretsManager) -> Account:
        return Account("eu-central-1", endpoint=secrets_manager.url)

    def test_one_that_was_only_reviewed_is_none(self, account: Account) -> None:
        """A "no" to SAM's own question leaves it behind; the next deployment creates it."""
        client = account.client("cloudformation")
        client.create_change_set(
            StackName="reviewed", ChangeSetName="first", ChangeSetType="CREATE",
            TemplateBody='{"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}',
        )  # fmt: skip
        (listed,) = client.describe_stacks(StackName="reviewed")["Stacks"]
        assert listed["StackStatus"] == "REVIEW_IN_PROGRESS"
        assert account.stack("reviewed") == Deployed("reviewed")
        program._check_state(account.stack("reviewed"))


class TestPrune:
    @pytest.mark.parametrize("status", ["UPDATE_ROLLBACK_FAILED", "UPDATE_IN_PROGRESS"])
    def test_not_while_a_version_may_still_be_needed(
        self,
        said: Said,
        ran: list[list[str]],  # noqa: ARG002 - at moto
        monkeypatch: pytest.MonkeyPatch,
        status: str,
    ) -> None:
        stack_is(monkeypatch, status)
        code, text = said("prune")
        assert code == 1
        why = "The rollback of usage-billing failed"
        assert (why if "FAILED" in status else "usage-billing is being changed") in text

    def test_no_such_stack(self, said: Said, ran: list[list[str]]) -> None:  # noqa: ARG002 - at moto
        code, text = said("prune")
        assert code == 1
        assert "no stack usage-billing" in text


def test_make_hands_on_what_it_is_told() -> None:
    """The verbs of the Makefile, without running them."""
    done = subprocess.run(
        ["make", "-n", "deploy", "prune", "DRY_RUN=1", "ENVIRONMENT=staging", "KEEP=7",
         "PARAMETERS=CommetMode=sandbox"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "-m deploy up --environment staging --dry-run" in done.stdout
    assert "CommetMode=sandbox" in done.stdout
    assert "-m deploy prune --environment staging --keep 7 --dry-run" in done.stdout


class Logs:
    """Log groups at moto, whose names are of this test alone."""

    def __init__(self, account: Account) -> None:
        self._client = account.client("logs")
        self.stack = f"stack-{uuid4().hex[:8]}"

    def make(self, *names: str) -> None:
        for name in names:
            self._client.create_log_group(logGroupName=f"{self.stack}{name}")

    def left(self) -> list[str]:
        found = self._client.describe_log_groups(logGroupNamePrefix=self.stack)["logGroups"]
        return sorted(each["logGroupName"].removeprefix(self.stack) for each in found)


@pytest.fixture
def logs(
    ran: list[list[str]],  # noqa: ARG001 - at moto
    secrets_manager: SecretsManager,
    monkeypatch: pytest.MonkeyPatch,
) -> Logs:
    """The logs of a stack, of one whose name begins the same, and somebody else's."""
    made = Logs(Account("eu-central-1", endpoint=secrets_manager.url))
    made.make("-SignupLogs-AbC1", "-SignupLogs-AbC2", "-MigrateLogs-xY9")
    made.make("-staging-SignupLogs-AbC1", "-OtherLogs-AbC1", "-SignupLogs-AbC1-x", "x-SignupLogs-A")
    monkeypatch.setattr(program, "_sam", lambda: "sam")
    environment = Environment("production", made.stack, "eu-central-1", {})
    monkeypatch.setattr(parameters, "environment", lambda *_: environment)
    return made


OTHERS_LOGS = [
    "-OtherLogs-AbC1",
    "-SignupLogs-AbC1-x",
    "-staging-SignupLogs-AbC1",
    "x-SignupLogs-A",
]


class TestDelete:
    @pytest.fixture
    def there(self, monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
        """A stack that is gone after the first look."""
        states = iter([Deployed(logs.stack, "UPDATE_COMPLETE", {"LogRetentionDays": "30"})])
        monkeypatch.setattr(Account, "stack", lambda *_: next(states, Deployed(logs.stack)))

    @pytest.mark.usefixtures("there")
    def test_logs_stay(self, said: Said, ran: list[list[str]], logs: Logs) -> None:
        """Unless a person says otherwise. What stays is named."""
        before = logs.left()
        code, text = said("delete", "--yes")
        assert code == 0, text
        assert ran == [
            [
                "sam",
                "delete",
                "--stack-name",
                logs.stack,
                "--region",
                "eu-central-1",
                "--no-prompts",
            ]
        ]
        assert logs.left() == before
        assert "The functions' logs stay. Each entry goes after 30 days" in text
        assert f"  {logs.stack}-SignupLogs-AbC1\n" in text

    @pytest.mark.usefixtures("there")
    def test_logs_go_with_the_stack(self, said: Said, ran: list[list[str]], logs: Logs) -> None:
        """Its own, also of an earlier stack of this name; never another stack's."""
        code, text = said("delete", "--yes", "--logs", "delete")
        assert (code, len(ran)) == (0, 1), text
        assert logs.left() == OTHERS_LOGS
        assert f"{logs.stack}-staging" not in text

    def test_logs_of_a_stack_that_is_gone(
        self, said: Said, ran: list[list[str]], logs: Logs
    ) -> None:
        """Somebody who kept them may delete them later."""
        code, text = said("delete", "--yes", "--logs", "delete")
        assert (code, ran) == (0, []), text
        assert logs.left() == OTHERS_LOGS
        code, text = said("delete", "--yes", "--logs", "delete")
        assert code == 1
        assert "There is no stack" in text

    def test_a_stack_that_cannot_be_deleted_keeps_its_logs(
        self, said: Said, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They say why."""
        monkeypatch.setattr(Account, "stack", lambda *_: Deployed(logs.stack, "DELETE_FAILED"))
        before = logs.left()
        code, text = said("delete", "--yes", "--logs", "delete")
        assert code == 1
        assert "docs/upgrade.md" in text
        assert logs.left() == before

    def test_a_stack_that_is_being_changed(
        self, said: Said, ran: list[list[str]], logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            Account, "stack", lambda *_: Deployed(logs.stack, "UPDATE_ROLLBACK_IN_PROGRESS")
        )
        code, text = said("delete", "--yes")
        assert (code, ran) == (1, [])
        assert "Wait" in text

    @pytest.mark.usefixtures("there")
    @pytest.mark.parametrize(("answer", "runs"), [("y", 1), ("n", 0), ("", 0)])
    def test_it_asks(  # noqa: PLR0917 - fixtures and cases
        self,
        said: Said,
        ran: list[list[str]],
        logs: Logs,
        monkeypatch: pytest.MonkeyPatch,
        answer: str,
        runs: int,
    ) -> None:
        """Once, after it has said what goes."""
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("rich.console.Console.input", lambda *_: answer)
        before = logs.left()
        code, _ = said("delete", "--logs", "delete")
        assert (code == 0, len(ran)) == (runs == 1, runs)
        assert (logs.left() == before) is (runs == 0)

    @pytest.mark.usefixtures("there")
    def test_nobody_to_ask(self, said: Said, ran: list[list[str]]) -> None:
        code, text = said("delete")
        assert (code, ran) == (1, [])
        assert "make delete YES=1" in text
