"""Runs the program under Pulumi's mocks and records what it declares, for the local cloud and the tests.

Runs `__main__.py` unchanged, or any callable. Adds what the servers would compute (addresses, e-mails, digests).
Refuses a resource that is declared twice, and any call to a provider. Mocks check neither the provider's schema nor
IAM: the engine's tests and the running local cloud do.
"""

import asyncio
import contextlib
import contextvars
import dataclasses
import json
import logging
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pulumi
import yaml
from pulumi.runtime import mocks, rpc
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import SETTINGS, get_root_resource
from pulumi.runtime.stack import Stack, run_pulumi_func

from local.program.servers import compute_outputs, service_state

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "cloud-run-tasks"
"""The Pulumi project's name, and so the namespace of its settings."""
SERVICE_URL = "https://task-handler.example"
"""The Cloud Run service's address if the caller gives none."""


@dataclasses.dataclass(frozen=True)
class Resource:
    """One declared resource."""

    urn: str
    type: str
    """Token, such as `gcp:cloudtasks/queue:Queue`."""
    name: str
    parent: str
    """URN."""
    inputs: Mapping[str, Any]
    """camelCase keys. Numbers are floats, secrets plain text, unknown values pulumi.output.Unknown."""
    id: str
    """The server's id; empty in a preview."""
    outputs: Mapping[str, Any]
    """The inputs, and what the server computes."""
    depends_on: frozenset[str]
    """URNs of the resources that it waits for, through values or options."""
    options: resource_pb2.RegisterResourceRequest
    """The registration as the engine receives it."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one run of the program declared."""

    resources: Mapping[str, Resource]
    """By URN, in the order of declaration."""
    exports: Mapping[str, Any]
    """Exported values; None if unknown in a preview."""
    awaited: Mapping[str, Sequence[str]]
    """The names of the resources that each export waits for."""

    def of_type(self, token: str) -> list[Resource]:
        return [resource for resource in self.resources.values() if resource.type == token]


class ProgramError(Exception):
    """The program cannot be evaluated here; the message says what to do."""


def stack_configuration(stack: str, root: Path = ROOT) -> dict[str, str]:
    """The keys and texts of `Pulumi.<stack>.yaml`, without its encrypted values.

    Raises ProgramError if the file is missing or is not a stack's configuration."""
    file = root / f"Pulumi.{stack}.yaml"
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        stacks = sorted(path.name.split(".")[1] for path in root.glob("Pulumi.*.yaml"))
        raise ProgramError(f"no stack {stack!r}: {file} does not exist; stacks here: {', '.join(stacks)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProgramError(f"{file} is not YAML: {error}") from None
    config = (content.get("config") or {}) if isinstance(content, dict) else content or {}
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise ProgramError(f"{file}: `config:` must map keys to values")
    return {
        key: value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in config.items()
        if not _encrypted(value)
    }


def _encrypted(value: object) -> bool:
    """Whether a value contains a `secure:` text at any depth."""
    if isinstance(value, dict):
        return "secure" in value or any(map(_encrypted, value.values()))
    return isinstance(value, list) and any(map(_encrypted, value))


def evaluate(
    program: Callable[[], object] | Path = ROOT / "__main__.py",
    *,
    stack: str = "dev",
    config: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    preview: bool = False,
    service_url: str = SERVICE_URL,
) -> Evaluation:
    """Run the program and return what it declared; raises what the program raises.

    `config`: keys and texts, by default those of the stack's file. `secrets`: keys and texts that were set with
    --secret. `preview`: leave unknown what servers compute, as in a first preview."""
    configuration = stack_configuration(stack) if config is None else dict(config)
    context = contextvars.Context()  # mocks keep the root stack in the context, so exports would leak into the next run
    return context.run(_evaluate, program, stack, configuration, dict(secrets or {}), preview, service_url)


def _evaluate(
    program: Callable[[], object] | Path,
    stack: str,
    config: dict[str, str],
    secrets: dict[str, str],
    preview: bool,
    service_url: str,
) -> Evaluation:
    with _registering_thread() as thread, asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(thread)
        runner.get_loop().set_exception_handler(_say_once)
        SETTINGS.outputs = set()  # shared by the process: outputs left by a failed run would block the next one
        recorder = _Recorder(preview, service_url)
        pulumi.runtime.set_all_config({**config, **secrets}, list(secrets))
        pulumi.runtime.set_mocks(recorder.mocks, PROJECT, stack, preview, logging.getLogger("pulumi"), recorder)

        async def run() -> None:
            if isinstance(program, Path):
                run_file(program)
            else:
                program()

        async def run_and_resolve() -> Evaluation:
            await run_pulumi_func(run)
            root = get_root_resource()
            assert isinstance(root, Stack)
            exports: dict[str, Any] = {}
            awaited: dict[str, list[str]] = {}
            for name, value in root.outputs.items():
                output = pulumi.Output.from_input(value)
                exports[name] = await output.future()
                awaited[name] = sorted(each.pulumi_resource_name for each in await output.resources())
            return Evaluation(recorder.declared, exports, awaited)

        return runner.run(run_and_resolve(), context=contextvars.copy_context())


def _say_once(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Do not log outputs that failed with the program, because its own error is raised."""
    if "never retrieved" not in context["message"]:
        loop.default_exception_handler(context)


@contextlib.contextmanager
def _registering_thread() -> Iterator[ThreadPoolExecutor]:
    """The thread that registers resources, with a loop that is closed; Pulumi would leave its own loop open."""
    loop = asyncio.new_event_loop()
    try:
        with ThreadPoolExecutor(1, initializer=asyncio.set_event_loop, initargs=(loop,)) as thread:
            yield thread
    finally:
        loop.close()


def run_file(program: Path) -> None:
    """Run a program in its folder with that folder first on the import path, as `pulumi up` does."""
    folder = str(program.parent)
    sys.path.insert(0, folder)
    try:
        with contextlib.chdir(folder):
            runpy.run_path(str(program), run_name="__main__")
    finally:
        sys.path.remove(folder)


class _Recorder(mocks.MockMonitor):
    """Keeps each registration. Plain mocks silently overwrite a repeated URN."""

    def __init__(self, preview: bool, service_url: str) -> None:
        super().__init__(_Servers(preview, service_url))
        self.declared: dict[str, Resource] = {}

    def RegisterResource(self, request: resource_pb2.RegisterResourceRequest) -> Any:  # noqa: ANN401, N802
        urn = self.make_urn(request.parent, request.type, request.name)
        if urn in self.declared:
            raise ProgramError(f"{request.type} {request.name!r} is declared twice; give one another name")
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call]
        if request.type != "pulumi:pulumi:Stack":
            self.declared[urn] = Resource(
                urn=urn,
                type=request.type,
                name=request.name,
                parent=request.parent,
                inputs=_plain(rpc.deserialize_properties(request.object)),
                id=self.resources[urn].id or "",
                outputs=_plain(self.resources[urn].state),
                depends_on=frozenset(request.dependencies),
                options=request,
            )
        return response


def _plain(value: Any) -> Any:  # noqa: ANN401 - any property value
    """The value with its secrets unwrapped at any depth."""
    value = rpc.unwrap_rpc_secret(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


class _Servers(mocks.Mocks):
    """Adds what the real services compute."""

    def __init__(self, preview: bool, service_url: str) -> None:
        self._preview = preview
        self._service_url = service_url
        self._services: dict[str, Mapping[str, Any]] = {}

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        if self._preview:
            return None, args.inputs
        id_, added = compute_outputs(args.typ, args.name, args.inputs, self._service_url)
        if args.typ == "gcp:cloudrunv2/service:Service":
            self._services[args.inputs["name"]] = args.inputs
        return id_, {**args.inputs, **added}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        if args.token == "gcp:cloudrunv2/getService:getService":
            return service_state(self._services[args.args["name"]]), []
        raise ProgramError(f"the program calls {args.token}, which has no answer without the cloud")
