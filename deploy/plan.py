"""What a deployment will do and roughly cost, for a person to read before it happens."""

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
    """One deployment. `before` is None where nobody was asked what is there."""

    environment: Environment
    values: Mapping[str, str]
    build_id: str
    before: Deployed | None
    template: Path
    commands: Sequence[Sequence[str]]

    def tell(self, console: Console) -> None:
        """Prints all of it."""
        self._tell_where(console)
        self._tell_parameters(console)
        self._tell_steps(console)
        self._tell_costs(console)

    def _tell_where(self, console: Console) -> None:
        stack = f"[bold]{escape(self.environment.stack)}[/]"
        if self.before is None:
            console.print(f"\nStack {stack}; whether it exists was not asked.")
        elif self.before.exists:
            console.print(f"\nStack {stack} is updated (it is {self.before.status}).")
        else:
            console.print(f"\nStack {stack} is created.")
        was = self.before.parameters.get(BUILD_ID) if self.before else None
        same = (
            " - the one that is deployed: nothing new is published" if was == self.build_id else ""
        )
        console.print(f"Build {self.build_id}{f', after {was}' if was and not same else same}.")

    def _tell_parameters(self, console: Console) -> None:
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

    def _tell_steps(self, console: Console) -> None:
        values = self.values
        registers = values.get("RegisterWebhook", "true") == "true"
        console.print("\nWhat happens")
        for number, step in enumerate(
            [
                "layer and functions are built for "
                f"{values.get('Architecture', 'arm64')} and uploaded",
                "SAM shows what CloudFormation will change, and asks once more",
                "the tables are brought up to date, all or nothing",
                "new versions of all functions are published, and take over "
                f"({values.get('Canary', 'AllAtOnce')})",
                f"Commet ({values.get('CommetMode', 'live')}) is told where to send webhooks, and "
                "their secret is stored"
                if registers
                else "nothing is registered at Commet: RegisterWebhook is false",
                "if any of it fails, all of it is taken back but the tables, which the code "
                "before works with",
            ],
            1,
        ):
            console.print(f"  {number}. {step}")
        console.print("\nCommands")
        for command in self.commands:
            console.print("  [dim]" + escape(_shell(command)) + "[/]")

    def _tell_costs(self, console: Console) -> None:
        console.print(
            "\nWhat it costs a month, roughly, database excluded (docs/aws.md has the assumptions)"
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
    """What is run, in order."""
    deploy = ["sam", "deploy", "--config-env", environment.name, "--no-fail-on-empty-changeset"]
    if not confirm:
        deploy.append("--no-confirm-changeset")
    deploy += ["--parameter-overrides", *as_words({**values, BUILD_ID: build_id})]
    build = ["make", "build", f"ARCHITECTURE={values.get('Architecture', 'arm64')}"]
    return [build, deploy]


def _shell(command: Sequence[str]) -> str:
    """Readable, and fit to be pasted."""
    return " ".join(word if word.isascii() and " " not in word else f"'{word}'" for word in command)
