"""The plan of a deployment: its steps and rough costs, shown to a person before it begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from deploy.aws import Deployed
from deploy.costs import count_alarm_metrics, estimate, usual_load
from deploy.parameters import BUILD_ID, Environment, as_words, changes
from local.gateway.template import load_template

_EVENTS_A_DAY = (0, 100_000)


@dataclass(frozen=True, slots=True)
class Plan:
    """One deployment. `before` is the stack as it is now, or None if AWS was not called."""

    environment: Environment
    values: Mapping[str, str]
    build_id: str
    before: Deployed | None
    template: Path
    commands: Sequence[Sequence[str]]

    def show(self, console: Console) -> None:
        """Prints the plan."""
        self._show_where(console)
        self._show_parameters(console)
        self._show_steps(console)
        self._show_costs(console)

    def _show_where(self, console: Console) -> None:
        stack = f"[bold]{escape(self.environment.stack)}[/]"
        if self.before is None:
            console.print(f"\nStack {stack}. AWS was not asked whether it exists.")
        elif self.before.exists:
            console.print(f"\nStack {stack} will be updated (its status is {self.before.status}).")
        else:
            console.print(f"\nStack {stack} will be created.")
        was = self.before.parameters.get(BUILD_ID) if self.before else None
        same = (
            " is deployed already: no new versions will be published"
            if was == self.build_id
            else ""
        )
        console.print(f"Build {self.build_id}{f' replaces {was}' if was and not same else same}.")

    def _show_parameters(self, console: Console) -> None:
        before = self.before.parameters if self.before else {}
        changed = changes({n: v for n, v in before.items() if n != BUILD_ID}, self.values)
        if not changed:
            console.print("\nParameters stay as they are.")
            return
        console.print("\nParameters")
        width = max(map(len, changed))
        for name, (old, new) in changed.items():
            arrow = f"[dim]{escape(old)} ->[/] " if old else ""
            console.print(f"  {name:<{width}}  {arrow}{escape(new) or '(empty)'}")

    def _show_steps(self, console: Console) -> None:
        values = self.values
        registers = values.get("RegisterWebhook", "true") == "true"
        console.print("\nWhat happens")
        for number, step in enumerate(
            [
                "the layer and the functions are built for "
                f"{values.get('Architecture', 'arm64')} and uploaded",
                "SAM shows what CloudFormation will change, and asks once more",
                "the tables are brought up to date, all or nothing",
                "new versions of all functions are published and take over "
                f"({values.get('Canary', 'AllAtOnce')})",
                f"the webhook endpoint is registered at Commet ({values.get('CommetMode', 'live')})"
                " and its secret is stored"
                if registers
                else "no webhook endpoint is registered at Commet (RegisterWebhook is false)",
                "if a step fails, what had changed is taken back, except the tables; the previous"
                " code works with the new tables",
            ],
            1,
        ):
            console.print(f"  {number}. {step}")
        if not values.get("EmailFrom"):
            console.print(
                "\n[yellow]No mail will be sent[/], because EmailFrom is empty: nobody can confirm"
                " an email address or set a forgotten password (docs/mail.md)."
            )
        console.print("\nCommands")
        for command in self.commands:
            console.print("  [dim]" + escape(_shell(command)) + "[/]")

    def _show_costs(self, console: Console) -> None:
        console.print(
            "\nRough costs a month without the database (docs/aws.md has the assumptions)"
        )
        template = load_template(self.template, {BUILD_ID: self.build_id} | dict(self.values))
        alarms = count_alarm_metrics(self.template)
        for events in _EVENTS_A_DAY:
            dollars = sum(
                estimate(
                    usual_load(events),
                    template,
                    alarms,
                    snapstart=self.values.get("SnapStart", "PublishedVersions") != "None",
                    database=False,
                    architecture=self.values.get("Architecture", "arm64"),
                    warm=int(self.values.get("UsageProvisionedConcurrency", "0")),
                ).values()
            )
            console.print(f"  {dollars:>5,.0f} USD with {events:,} usage events a day")


def commands(
    environment: Environment, values: Mapping[str, str], build_id: str, *, confirm: bool
) -> list[list[str]]:
    """Returns the commands of a deployment, in order. `confirm`: SAM asks before it changes AWS."""
    deploy = ["sam", "deploy", "--config-env", environment.name, "--no-fail-on-empty-changeset"]
    if not confirm:
        deploy.append("--no-confirm-changeset")
    deploy += ["--parameter-overrides", *as_words({**values, BUILD_ID: build_id})]
    build = ["make", "build", f"ARCHITECTURE={values.get('Architecture', 'arm64')}"]
    return [build, deploy]


def _shell(command: Sequence[str]) -> str:
    """Returns the command as text that can be pasted into a shell."""
    return " ".join(word if word.isascii() and " " not in word else f"'{word}'" for word in command)
