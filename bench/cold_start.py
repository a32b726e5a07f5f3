"""Measures how long each function takes to start, in the local runtime, with .pyc files present.

`click` is hidden from the functions, because it is not in the layer: where it is there, httpx
imports it, and `rich` with it.

Two more functions are measured for comparison: a bare handler, and one that imports everything at
its top, with Commet's official SDK. Each round starts every function once. The medians of one run
are compared with each other, because absolute times depend on the machine.

    python -m bench.cold_start [--rounds N]
"""

import argparse
import compileall
import hashlib
import hmac
import io
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from local.gateway.logs import Log, Report
from local.gateway.template import FunctionSpec
from local.stack import LocalStack
from standin.testing import Control

ROOT = Path(__file__).resolve().parent.parent
BARE, EVERYTHING = "BareFunction", "EverythingFunction"

# The longest INIT allowed, as a share of the INIT of the function that imports everything.
TARGETS = {
    "WebhookFunction": 0.20,
    "TrackUsageFunction": 0.30,
    "PagesFunction": 0.45,
    "OpsFunction": 0.45,
}
OTHER_TARGET = 0.40


def _operator(number: int) -> str:
    """The address that signs in in this round: an operator's, so that it sees `/ops`."""
    return f"operator-{number}@example.com"


class Measurements(Log):
    """Keeps the reports of cold starts instead of printing them."""

    def __init__(self) -> None:
        super().__init__(io.StringIO(), colour=False)
        self.init_ms: dict[str, list[float]] = defaultdict(list)
        self.answer_ms: dict[str, list[float]] = defaultdict(list)
        self._awaited = "MigrateFunction"  # the stack invokes it while it starts

    def report(
        self,
        spec: FunctionSpec,
        report: Report,
        ids: Sequence[str] = (),  # noqa: ARG002 - as in Log
    ) -> None:
        """Keeps the INIT time of the awaited function. Others may start at the same time."""
        if spec.name == self._awaited and report.init_ms is not None and report.error is None:
            self.init_ms[spec.name].append(report.init_ms)

    def first_answer(self, function: str, ask: Callable[[], object]) -> None:
        """Measures how long a caller waits for a function that is not running yet."""
        before = len(self.init_ms[function])
        self._awaited = function
        began = time.perf_counter()
        ask()
        took = (time.perf_counter() - began) * 1000
        self._awaited = "MigrateFunction"
        if len(self.init_ms[function]) != before + 1:
            raise RuntimeError(f"{function} was already running")
        self.answer_ms[function].append(took)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cold_start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7, help="starts per function (default: 7)")
    rounds = parser.parse_args(arguments).rounds
    console = Console()
    for folder in ("layers/common/billing", "functions", "bench"):
        compileall.compile_dir(ROOT / folder, quiet=1)
    measured = Measurements()
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        Path(place).chmod(0o755)  # Postgres may run as another user
        template = _template(Path(place))
        operators = ",".join(map(_operator, range(1, rounds + 1)))
        for number in range(1, rounds + 1):
            with (
                console.status(f"round {number} of {rounds}"),
                LocalStack(
                    data_dir=Path(place) / "data",
                    template=template,
                    schedule_minute_seconds=None,
                    parameters={"Operators": operators},
                    log=measured,
                ) as stack,
            ):
                _round(stack, measured, number)
    console.print(_table(measured))
    console.print(f"Medians in milliseconds of {rounds} starts of each function.")
    return 0


def _template(place: Path) -> Path:
    """The project's template, with the two functions for comparison added."""
    layer = place / "layer"
    layer.mkdir()
    (layer / "billing").symlink_to(ROOT / "layers" / "common" / "billing")
    (layer / "click.py").write_text("raise ImportError\n", encoding="utf-8")
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    text = text.replace("Uri: functions/", f"Uri: {ROOT}/functions/")
    text = text.replace("Uri: layers/common", f"Uri: {layer}")
    extra = "".join(
        f"""
  {name}:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: {ROOT}/bench/functions/{folder}
      Timeout: 30
"""
        for name, folder in ((BARE, "bare"), (EVERYTHING, "everything"))
    )
    path = place / "template.yaml"
    path.write_text(text.replace("\nOutputs:\n", f"{extra}\nOutputs:\n"), encoding="utf-8")
    return path


def _round(stack: LocalStack, measured: Measurements, number: int) -> None:
    """One cold start of every function. Raises where an answer is not the expected one."""
    login = {"email": _operator(number), "password": "cold as ice"}
    control = Control(stack.commet.removesuffix("/api/v1"))
    with httpx.Client(base_url=stack.api, timeout=60, trust_env=False) as http:

        def post(path: str, status: int, body: Mapping[str, object], token: str = "") -> Any:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            answer = http.post(path, json=body, headers=headers)
            if answer.status_code != status:
                raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")
            return answer.json()

        def get(path: str, headers: Mapping[str, str] | None = None) -> None:
            answer = http.get(path, headers=headers)
            if answer.status_code != 200:
                raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")

        measured.first_answer(BARE, lambda: stack.invoke(BARE))
        measured.first_answer(EVERYTHING, lambda: stack.invoke(EVERYTHING))
        measured.first_answer("SendMailFunction", lambda: stack.invoke("SendMailFunction"))
        user: dict[str, str] = {}
        measured.first_answer(
            "SignupFunction", lambda: user.update(post("/signup", 201, login)["user"])
        )
        stack.confirm_address(user["id"])
        session: dict[str, str] = {}
        measured.first_answer(
            "SessionFunction", lambda: session.update(post("/login", 200, login)["session"])
        )
        http.cookies.clear()  # else the token below would not be the only credential
        token = session["token"]
        signed_in = {"authorization": f"Bearer {token}"}
        cookie = {"cookie": f"session={token}"}
        measured.first_answer("AccountFunction", lambda: get("/account", signed_in))
        measured.first_answer("CheckoutFunction", lambda: get("/plans"))
        measured.first_answer("WebhookFunction", lambda: _signed_webhook(stack, number))
        checkout = post("/checkout", 201, {"plan_code": "usage_pro"}, token)
        control.pay(checkout["subscription"]["id"])
        control.settle()
        measured.first_answer("PortalFunction", lambda: post("/portal", 201, {}, token))
        measured.first_answer("DashboardFunction", lambda: get("/dashboard", signed_in))
        measured.first_answer("PagesFunction", lambda: get("/app", cookie))
        measured.first_answer("OpsFunction", lambda: get("/ops", cookie))
        used = {"user_id": user["id"], "feature": "storage", "idempotency_key": "first"}
        measured.first_answer(
            "TrackUsageFunction", lambda: post("/usage", 202, used, stack.service_key)
        )
        key = {"authorization": f"Bearer {stack.service_key}"}
        measured.first_answer("EventsFunction", lambda: get("/events", key))
        measured.first_answer("SendEventsFunction", lambda: stack.invoke("SendEventsFunction"))
        measured.first_answer("DeliverUsageFunction", lambda: stack.invoke("DeliverUsageFunction"))
        measured.first_answer("ReconcileFunction", lambda: stack.invoke("ReconcileFunction"))
    control.close()


def _signed_webhook(stack: LocalStack, number: int) -> None:
    body = json.dumps({"id": f"whev_bench_{time.time_ns()}_{number}", "event": "bench"}).encode()
    signature = hmac.new(stack.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
    answer = httpx.post(
        stack.function_url,
        content=body,
        headers={"x-commet-signature": signature, "content-type": "application/json"},
        timeout=60,
        trust_env=False,
    )
    answer.raise_for_status()


def _table(measured: Measurements) -> Table:
    init = {name: statistics.median(times) for name, times in measured.init_ms.items()}
    answer = {name: statistics.median(times) for name, times in measured.answer_ms.items()}
    table = Table(title="Cold starts", title_justify="left")
    for heading in ("function", "init", "of everything", "target", "first good answer"):
        table.add_column(heading, justify="left" if heading == "function" else "right")
    for name in sorted(init, key=init.__getitem__):
        share = init[name] / init[EVERYTHING]
        target = None if name in (BARE, EVERYTHING) else TARGETS.get(name, OTHER_TARGET)
        verdict = "" if target is None else "[green]✓[/]" if share <= target else "[red]✗[/]"
        table.add_row(
            name,
            f"{init[name]:.0f}",
            f"{share:.2f}",
            "" if target is None else f"{target:.2f} {verdict}",
            f"{answer[name]:.0f}" if name in answer else "",
        )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
