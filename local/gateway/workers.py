"""Workers: one process per concurrent invocation, as in Lambda."""

import contextlib
import math
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from local import lambda_runtime
from local.gateway.debugging import PATIENT_SECONDS, Debugging
from local.gateway.events import trace_id
from local.gateway.logs import Log
from local.gateway.runtime_api import LOOPBACK, Invocation, Outcome, RuntimeApi, Session
from local.gateway.template import ACCOUNT_ID, REGION, FunctionSpec
from local.gateway.watch import Stamp
from local.reaper import Reaper

# Lambda gives a start ten seconds, and then repeats it within the function's own time limit. Our
# slowest functions get at least this time there in total, and need it on a busy laptop.
INIT_SECONDS = 40.0
_OWN_CLIENT = Path(lambda_runtime.__file__).with_name("client.py")


@dataclass(frozen=True)
class Sidecars:
    """The parts of a worker's environment that the gateway provides: ports, a token, a home
    directory.
    """

    secrets_port: int
    session_token: str
    home: Path
    clock_url: str | None = None


def has_awslambdaric() -> bool:
    """Returns whether this interpreter has AWS's own runtime client."""
    return find_spec("awslambdaric") is not None


class Launcher:
    """Starts workers. The gateway has one launcher.

    `python` is the functions' interpreter, by default this one. With `own_client`, the functions
    run under our small client instead of awslambdaric. The function of `debugging` waits for a
    debugger.
    """

    def __init__(
        self,
        sidecars: Sidecars,
        log: Log,
        *,
        python: str | None = None,
        own_client: bool | None = None,
        init_seconds: float = INIT_SECONDS,
        debugging: Debugging | None = None,
    ) -> None:
        self.log = log
        self._init_seconds = init_seconds
        self._debugging = debugging
        self._sidecars = sidecars
        self._python = python or sys.executable
        if own_client is None:
            own_client = python is None and not has_awslambdaric()
        self._client = [str(_OWN_CLIENT)] if own_client else ["-m", "awslambdaric"]
        self._runtime_api = RuntimeApi()
        self._reaper = Reaper()

    def is_debugged(self, function: str) -> bool:
        return self._debugging is not None and self._debugging.function == function

    def init_seconds(self, function: str) -> float:
        """Returns how long a start of the function may take."""
        return PATIENT_SECONDS if self.is_debugged(function) else self._init_seconds

    def start(self, spec: FunctionSpec, stamp: Stamp, ids: Sequence[str] = ()) -> "Worker":
        """Starts the process of a worker and returns the worker. `Worker.initialise` waits until it
        is ready.

        `ids` are those of the invocation that needs the worker.
        """
        client = self._client
        if self._debugging and self.is_debugged(spec.name):
            client = self._debugging.command(client)
            waits = f"Waits for a debugger at {LOOPBACK}:{self._debugging.port}."
            self.log.note(spec.name, waits)
        session = Session()
        port = self._runtime_api.open(session)
        try:
            process = subprocess.Popen(
                [self._python, *client, spec.handler],
                cwd=spec.code,
                env=worker_environment(spec, f"{LOOPBACK}:{port}", self._sidecars),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=self._reaper.group,
            )
        except OSError:
            session.close()
            raise
        return Worker(spec, stamp, process, session, self, ids=ids)

    def close(self) -> None:
        self._runtime_api.close()
        self._reaper.close()


def worker_environment(spec: FunctionSpec, runtime_api: str, sidecars: Sidecars) -> dict[str, str]:
    """Returns the worker's environment: Lambda's variables and the template's, without the
    shell's.
    """
    environment = dict(spec.environment)
    environment |= {
        "_HANDLER": spec.handler,
        "AWS_ACCESS_KEY_ID": "AKIALOCALLOCALLOCAL0",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_SESSION_TOKEN": sidecars.session_token,
        "AWS_ACCOUNT_ID": ACCOUNT_ID,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        # awslambdaric polls in a thread only if it knows the runtime's name. Without this thread,
        # SIGTERM does not end a waiting worker.
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{spec.runtime}",
        "AWS_LAMBDA_FUNCTION_NAME": spec.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{spec.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": "local",
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
        # This variable tells libraries that there is no X-Ray daemon.
        "AWS_SAM_LOCAL": "true",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "HOME": str(sidecars.home),
        "LAMBDA_TASK_ROOT": str(spec.code),
        "LANG": "en_US.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(map(str, [spec.code, *map(import_root, spec.layers)])),
        "TZ": ":UTC",
        "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": str(sidecars.secrets_port),
        "SECRETS_ENDPOINT_URL": f"http://{LOOPBACK}:{sidecars.secrets_port}",
        "EMAIL_ENDPOINT_URL": f"http://{LOOPBACK}:{sidecars.secrets_port}",
        "EVENTS_ENDPOINT_URL": f"http://{LOOPBACK}:{sidecars.secrets_port}",
        # AWS's SDKs read this one themselves.
        "AWS_ENDPOINT_URL_LAMBDA": f"http://{LOOPBACK}:{sidecars.secrets_port}",
        # Endpoints of products may be on this machine, and then need no encryption.
        "EVENT_RECEIVERS_ON_LOOPBACK": "true",
        # Keeps the debugger from warning that Python's own modules have no files.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if spec.logging.get("LogFormat") == "JSON":
        environment["AWS_LAMBDA_LOG_FORMAT"] = "JSON"
        environment["AWS_LAMBDA_LOG_LEVEL"] = spec.logging.get("ApplicationLogLevel", "INFO")
    if sidecars.clock_url:
        environment["CLOCK_URL"] = sidecars.clock_url
    return environment


def import_root(layer: Path) -> Path:
    """The directory with a layer's packages: `python/` of a built layer, else the layer itself."""
    built = layer / "python"
    return built if built.is_dir() else layer


class Worker:
    """One process. The caller must not run two invocations at the same time."""

    def __init__(
        self,
        spec: FunctionSpec,
        stamp: Stamp,
        process: subprocess.Popen[bytes],
        session: Session,
        launcher: Launcher,
        *,
        ids: Sequence[str],
    ) -> None:
        self.spec = spec
        self.stamp = stamp
        self.max_memory_mb: int | None = None
        self.init_ms: float | None = None
        self.init_failure: Outcome | None = None
        self.served = False
        self.fatal = False
        self._started = time.monotonic()
        self._process = process
        self._session = session
        self._launcher = launcher
        self._output = _Output(process, spec.name, launcher.log, ids)
        threading.Thread(target=self._watch, name=f"{spec.name}-exit", daemon=True).start()

    @property
    def alive(self) -> bool:
        return not self.fatal and self._process.poll() is None

    def initialise(self) -> None:
        """Waits until the worker is ready. If the start failed, sets `init_failure`."""
        self.init_failure = self._session.wait_ready(self._launcher.init_seconds(self.spec.name))
        self.init_ms = (time.monotonic() - self._started) * 1000
        if self.init_failure:
            self._give_up()

    def invoke(
        self,
        ids: Sequence[str],
        payload: bytes,
        *,
        trace: str | None = None,
        routine: bool = False,
    ) -> Outcome:
        """Runs the handler once, for at most the function's time limit.

        `ids` are Lambda's id of the invocation and, if it answers a request, the request's id.
        """
        debugged = self._launcher.is_debugged(self.spec.name)
        limit = PATIENT_SECONDS if debugged else self.spec.timeout_seconds
        self._output.routine, self._output.ids = routine, ids
        self._session.submit(
            Invocation(
                ids[0],
                payload,
                deadline_ms=math.floor((time.time() + limit) * 1000),
                function_arn=self.spec.arn,
                trace_id=trace or f"{trace_id()};Sampled=0",
            )
        )
        outcome = self._session.wait_outcome(limit)
        self.max_memory_mb = _peak_memory_mb(self._process.pid)
        self._output.pump()
        if outcome.fatal:
            self._give_up()
        return outcome

    def terminate(self) -> None:
        """Asks the process to end. If it does not, the caller uses `kill`."""
        self._session.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        self._session.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def wait(self, timeout: float) -> bool:
        """Returns whether the process has ended within `timeout` seconds."""
        try:
            self._process.wait(max(timeout, 0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def _give_up(self) -> None:
        self.fatal = True
        self.kill()
        self._process.wait()
        self._output.pump()

    def _watch(self) -> None:
        code = self._process.wait()
        self._output.close()
        self._session.close()
        if code < 0 and not self.fatal and -code not in {signal.SIGTERM, signal.SIGKILL}:
            name = signal.Signals(-code).name
            self._launcher.log.note(self.spec.name, f"The process was ended by {name}.")


class _Output:
    """Passes a worker's output on, so that it is printed before the REPORT line of its
    invocation.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], name: str, log: Log, ids: Sequence[str]
    ) -> None:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        self._pipe = process.stdout
        self._name = name
        self._log = log
        self._rest = b""
        self.routine = False
        self.ids = ids
        self._lock = threading.Lock()
        os.set_blocking(self._pipe.fileno(), False)
        threading.Thread(target=self._relay, name=f"{name}-output", daemon=True).start()

    def pump(self) -> bool:
        """Prints everything written until now. Returns False at the end of the output."""
        with self._lock:
            while not self._pipe.closed:
                try:
                    chunk = os.read(self._pipe.fileno(), 65536)
                except BlockingIOError:
                    return True
                if not chunk:
                    self._pipe.close()
                    self._flush(b"")
                    break
                complete, newline, rest = chunk.rpartition(b"\n")
                if newline:
                    self._flush(complete)
                    self._rest = rest
                else:
                    self._rest += chunk
            return False

    def close(self) -> None:
        """Prints the remaining output after the process has ended. Does not wait for output of
        its children.
        """
        self.pump()

    def _flush(self, complete: bytes) -> None:
        text = (self._rest + complete).decode("utf-8", errors="replace")
        self._rest = b""
        if text:
            self._log.output(self._name, text, routine=self.routine, ids=self.ids)

    def _relay(self) -> None:
        descriptor = self._pipe.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not self._pipe.closed:
            poll.poll(1000)
            if not self.pump():
                return


def _peak_memory_mb(pid: int) -> int | None:
    """Returns the process's highest memory use (VmHWM) in MB; None if the system does not
    report it.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/status", os.O_RDONLY)
    except OSError:
        return None
    try:
        found = re.search(rb"VmHWM:\s*(\d+) kB", os.read(descriptor, 4096))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return math.ceil(int(found[1]) / 1024) if found else None
