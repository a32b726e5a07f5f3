"""The address at which everybody calls AWS: `make deploy`, the functions, the test, Commet.

It passes every request on to the emulator, unchanged, with three exceptions:

- The template of a change set is replaced by the adapted one (`adaptations`). CloudFormation itself
  translates SAM templates after it was called, so the translation belongs behind this address.
- Requests to `api_address` go to the API `api_id`, whose host name no DNS knows here.
- The waiters of SAM CLI and boto3 ask every 30 seconds how a stack is. The answer waits until the
  stack has stopped changing, so nobody waits longer than needed.

It also counts which actions of AWS the functions call.
"""

import asyncio
import json
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import boto3
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from samcli.yamlhelper import yaml_parse
from yarl import URL

from local.ports import Port, free_port
from tests.deployed.adaptations import API_PATH, adapt
from tests.deployed.emulator import CREDENTIALS
from tests.deployed.places import HOST, REGION

_LARGEST_BODY = 100 * 1024 * 1024
_STACK_SECONDS = 25.0
_POLL_SECONDS = 0.1
_HOP_BY_HOP = {
    "connection",
    "transfer-encoding",
    "content-length",
    "keep-alive",
    "content-encoding",
}
_TEMPLATES = "deploy-test-templates"


class Front:
    """The two addresses, and what came to them."""

    def __init__(self, emulator_port: int) -> None:
        # The emulator itself.
        self.emulator = f"http://{HOST}:{emulator_port}"
        self.port, self.api_port = free_port(Port()), free_port(Port())
        self.api_id = ""
        self.actions: Counter[str] = Counter()
        self.problems: list[str] = []
        self.templates: list[dict[str, Any]] = []
        self._deletes = False
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession | None = None
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)

    @property
    def address(self) -> str:
        """Where AWS is called."""
        return f"http://{HOST}:{self.port}"

    @property
    def api_address(self) -> str:
        """Where the deployed API is called."""
        return f"http://{HOST}:{self.api_port}"

    @contextmanager
    def running(self) -> Iterator["Front"]:
        """Answers until the context is left."""
        self._thread.start()
        self._ready.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def client(self, service: str, key: Mapping[str, str] | None = None) -> Any:
        """A boto3 client of the emulator that does not pass by here, for the owner or a user."""
        owner = CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
        name, secret = (key["AccessKeyId"], key["SecretAccessKey"]) if key else owner
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.emulator,
            region_name=REGION,
            aws_access_key_id=name,
            aws_secret_access_key=secret,
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._stop())
        self._loop.close()

    async def _start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=600)
        self._session = aiohttp.ClientSession(
            timeout=timeout, auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
        )
        self._runners = []
        for port, handler in ((self.port, self._aws), (self.api_port, self._api)):
            app = web.Application(client_max_size=_LARGEST_BODY)
            app.router.add_route("*", "/{rest:.*}", handler)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, HOST, port).start()
            self._runners.append(runner)

    async def _stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        assert self._session is not None
        await self._session.close()

    async def _api(self, request: web.Request) -> web.StreamResponse:
        before = API_PATH.format(api_id=self.api_id)
        return await self._pass_on(request, await request.read(), before=before)

    async def _aws(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self._count(request)
        form = dict(parse_qsl(body.decode("latin-1"))) if b"Action=" in body[:4096] else {}
        if form.get("Action") == "CreateChangeSet":
            try:
                return await self._change_set(form)
            except Exception as error:  # noqa: BLE001 - a handler's error would only be logged
                self.problems.append(f"CreateChangeSet: {traceback.format_exc()}")
                return web.Response(status=500, text=f"deploy-test: {error!r}")
        self._deletes |= form.get("Action") == "DeleteStack"
        asks = form.get("Action") in {"DescribeStacks", "DescribeChangeSet"}
        if asks and is_waiter(request.headers.get("User-Agent", "")):
            return await self._patiently(request, body)
        return await self._pass_on(request, body)

    async def _patiently(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """The answer once it says nothing of being in progress, or after a while."""
        deadline = time.monotonic() + _STACK_SECONDS
        while True:
            answer = await self._pass_on(request, body)
            said: Any = answer.body or b""
            # A deletion begins some time after it was asked for.
            begins = self._deletes and answer.status == 200 and b"DELETE_" not in said
            if not (begins or b"_IN_PROGRESS" in said) or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(_POLL_SECONDS)

    def _count(self, request: web.Request) -> None:
        """Counts the calls of functions. Their credentials are not the account's own."""
        signed = request.headers.get("Authorization", "")
        _, _, scope = signed.partition("Credential=")
        parts = scope.partition(",")[0].split("/")
        if len(parts) < 5 or parts[0] == CREDENTIALS["AWS_ACCESS_KEY_ID"]:
            return
        name = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        if parts[3] == "lambda" and request.path.endswith("/invocations"):
            name = "InvokeFunction"
        self.actions[f"{parts[3]}:{name or f'{request.method} {request.path}'}"] += 1

    async def _change_set(self, form: dict[str, str]) -> web.StreamResponse:
        changed = await asyncio.to_thread(self._adapted, form)
        body = urlencode(changed).encode()
        signed = AWSRequest(
            "POST",
            f"{self.emulator}/",
            data=body,
            headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
        )
        SigV4Auth(Credentials(*CREDENTIALS.values()), "cloudformation", REGION).add_auth(signed)
        assert self._session is not None
        async with self._session.post(
            f"{self.emulator}/", data=body, headers=dict(signed.headers.items())
        ) as answer:
            return web.Response(
                status=answer.status, body=await answer.read(), headers=_kept(answer.headers)
            )

    def _adapted(self, form: dict[str, str]) -> dict[str, str]:
        """The parameters of CreateChangeSet with the adapted template."""
        s3 = self.client("s3")
        if "TemplateBody" in form:
            text = form["TemplateBody"]
        else:
            bucket, _, key = urlsplit(form["TemplateURL"]).path.lstrip("/").partition("/")
            text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        template = yaml_parse(text)
        if "Transform" not in template:
            return form  # SAM CLI's own stack, which has the bucket
        adapted = adapt(template, self._values(form, template))
        adapted = json.loads(json.dumps(adapted, default=str))
        self.templates.append(adapted)
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket=_TEMPLATES)
        key = f"{len(self.templates)}.json"
        s3.put_object(Bucket=_TEMPLATES, Key=key, Body=json.dumps(adapted).encode())
        changed = {name: value for name, value in form.items() if name != "TemplateBody"}
        return changed | {"TemplateURL": f"{self.emulator}/{_TEMPLATES}/{key}"}

    def _values(self, form: Mapping[str, str], template: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters' values as CloudFormation hands them to SAM: lists are lists."""
        declared = template.get("Parameters", {})
        values = {n: str(p["Default"]) for n, p in declared.items() if "Default" in p}
        number = 1
        while name := form.get(f"Parameters.member.{number}.ParameterKey"):
            value = form.get(f"Parameters.member.{number}.ParameterValue", "")
            if form.get(f"Parameters.member.{number}.UsePreviousValue") == "true":
                value = self._deployed(form["StackName"])[name]
            values[name] = value
            number += 1
        return {
            name: value.split(",") if declared[name]["Type"] == "CommaDelimitedList" else value
            for name, value in values.items()
        }

    def _deployed(self, stack: str) -> dict[str, str]:
        (found,) = self.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        return {p["ParameterKey"]: p["ParameterValue"] for p in found["Parameters"]}

    async def _pass_on(
        self, request: web.Request, body: bytes, *, before: str = ""
    ) -> web.Response:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _HOP_BY_HOP - {"content-encoding"}
        }
        url = f"{self.emulator}{before}{request.raw_path}"
        assert self._session is not None
        try:
            async with self._session.request(
                request.method,
                URL(url, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                return web.Response(
                    status=answer.status, body=await answer.read(), headers=_kept(answer.headers)
                )
        except aiohttp.ClientError as error:  # at the end of a run the emulator is gone first
            return web.Response(status=502, text=f"deploy-test: the emulator: {error!r}")


def is_waiter(user_agent: str) -> bool:
    """Whether one of botocore's waiters asks: its list of features (`m/`) then has a B."""
    _, _, features = user_agent.partition(" m/")
    return "B" in features.partition(" ")[0].split(",")


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {n: v for n, v in headers.items() if n.lower() not in _HOP_BY_HOP}
