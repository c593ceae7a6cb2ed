"""The command line: `up` runs the program's cloud on this machine, `drill` and `simulate` break it."""

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pulumi
from rich.console import Console

from local.arguments import parse
from local.cloud import Cloud
from local.cloud_run.containers import ContainerError, Containers
from local.cloud_run.running_handler import RunningHandler
from local.cloud_run.runtime import Command, Processes, Runtime
from local.cloud_tasks.listener import Event
from local.drill.drill import PHASES, Drill, DrillError
from local.faults import Faults
from local.logs import FILE, HANDLER, Log, read
from local.ports import PortTakenError, listen
from local.preview import preview
from local.program import PROJECT, ROOT, ProgramError, evaluate
from local.program.declared import Declared, declared
from local.program.local_stack import local_configuration, needed_variables
from local.report import Report
from local.sinks.effects import Effects
from local.sinks.shop import orders_of
from local.state import StateError, open_state, ports_of, reset
from local.streams import keep_open, lines

log = logging.getLogger("local")


def main() -> int:
    gc.disable()  # the start makes many objects that stay: looking through them takes a third of it
    keep_open()
    arguments = parse()
    console = Console(stderr=True)
    try:
        match arguments.command:
            case "drill":
                return _drill(arguments)
            case "simulate":
                from local.simulate import command  # needs the handler, which only `make setup` installs here

                return command.run(arguments.seeds, arguments.orders, arguments.minutes, trace=arguments.trace)
            case "reset":
                Console().print(*(f"Deleted the state in {folder}" for folder in reset(arguments.state)), sep="\n")
            case "logs":
                file = (arguments.state or Path("local.env").resolve().parent) / FILE
                if not file.exists():
                    raise StateError(f"there is no {file}: pass the --state of a local cloud")
                for line in read(file, arguments.order):
                    Console().print(line, soft_wrap=True)
            case "preview":
                logging.getLogger("pulumi").setLevel(logging.ERROR)  # its warnings concern deployments
                config, secrets = local_configuration(arguments.stack, dict(arguments.config))
                evaluation = evaluate(stack=arguments.stack, config=config, secrets=secrets, preview=True)
                Console(width=500).print(*preview(arguments.stack, evaluation))
            case "up":
                return _up(arguments, console)
        return 0
    except (ContainerError, DrillError, ProgramError, PortTakenError, StateError, pulumi.RunError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130


def _up(arguments: argparse.Namespace, console: Console) -> int:
    """Runs the program's cloud. Returns the exit code."""
    started = time.monotonic()
    shown = Log(console)
    logging.basicConfig(handlers=[shown])
    for logger in ("local", HANDLER):
        logging.getLogger(logger).setLevel(logging.INFO)
    logging.getLogger("pulumi").setLevel(logging.ERROR)  # its warnings concern deployments
    overrides = dict(arguments.config)
    config, secrets = local_configuration(arguments.stack, overrides)
    with open_state(arguments.state, f"stack {arguments.stack} of {config['gcp:project']}") as (folder, store):
        shown.file = (folder / FILE).open("ab", buffering=0)
        ports = ports_of(store, arguments.port)
        with listen(ports.service, "the service") as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            program = declared(evaluate(stack=arguments.stack, config=config, secrets=secrets, service_url=url))
            faults = Faults(arguments.faults, folder / "faults.jsonl", mode=arguments.fault_mode)
            database_url = arguments.database_url or overrides.get(f"{PROJECT}:databaseUrl", "")
            effects = Effects(folder, faults, database_url)
            own_secret = effects.web_services.warehouse_secret
            effects.web_services.warehouse_secret = overrides.get(f"{PROJECT}:warehouseSecret", own_secret)
            context = ROOT / config.get(f"{PROJECT}:handlerContext", "handler")
            runtime = _runtime(arguments, program, context, folder, effects.database_file)
            report = Report(program.exports["queue"], console, time.monotonic)
            log_file = folder.resolve() / FILE
            cloud = Cloud(
                *(program, store, listener, ports, effects, faults, runtime, report, log_file, arguments.host or "")
            )
            return asyncio.run(_serve(cloud, report, arguments, shown, started))


def _runtime(
    arguments: argparse.Namespace, program: Declared, context: Path, folder: Path, database: Path | None
) -> Runtime | RunningHandler:
    """Return how the handler runs. `context`: the folder of its code. `folder`: the state's. `database`: SQLite's."""
    service = program.service
    if arguments.handler:
        if arguments.handler.startswith(("http://", "https://")):
            return RunningHandler(arguments.handler, service.max_instances * service.concurrency)
        return Command(Path.cwd(), arguments.handler)
    if arguments.container:
        return Containers.of(program.build or program.image, ROOT, service.name, folder, database)
    if not program.build:
        log.warning(
            "The stack runs the image %s. Here the code in %s/ runs instead. To run the image, add --container; "
            "to build one, add --container --config image=",
            program.image,
            os.path.relpath(context, ROOT),
        )
    return Processes(context)


def _drill(arguments: argparse.Namespace) -> int:
    folder = Path(tempfile.mkdtemp(prefix="cloud-run-tasks-drill-"))
    phases = arguments.phases or list(PHASES)
    drill = Drill(arguments.orders, arguments.seed, folder, arguments.database_url, Console(), phases)
    try:
        code = asyncio.run(drill.run())
    except (DrillError, ProgramError, TimeoutError) as error:
        text = f"{str(error) or 'an order never settles'}; what happened is in {folder}"
        raise DrillError(text) from error
    if code:
        Console().print(f"What happened is in {folder}", soft_wrap=True)
    else:
        shutil.rmtree(folder)
    return code


async def _serve(cloud: Cloud, report: Report, arguments: argparse.Namespace, shown: Log, started: float) -> int:
    """Serves until a signal, or until all is done and nobody waits. Returns the exit code."""
    stop = asyncio.Event()

    def end() -> None:
        if stop.is_set():  # a second signal ends it at once: attempts in flight count as failed at the next start
            cloud.kill()
            os._exit(130)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    failed = False
    async with cloud:
        cloud.store.set_fact("ports", json.dumps(dataclasses.asdict(cloud.ports)))
        if arguments.json:
            print(json.dumps(cloud.addresses()), flush=True)  # noqa: T201 - its one line of output
        gc.freeze()
        gc.enable()
        log.info("Ready in %.1f s", time.monotonic() - started)
        committed, expected = False, 0
        if arguments.orders:
            orders, expected = orders_of(arguments.orders)
            committed = await cloud.commit(orders)
        for name in arguments.broken:
            cloud.breakages.set(name, True)
        if arguments.orders:
            with report.bar(expected):
                failed = await _send(arguments.orders, cloud, stop) != 0
                unsent = expected - report.total(Event.CREATED)
                if stop.is_set() and unsent > 0:
                    log.warning("Interrupted: %d of %d tasks were never created; send the file again", unsent, expected)
                await _idle(cloud, stop)
            effects = cloud.effects.done(needed_variables(), committed)
            shown.console.print(report.table(cloud.dead_letters(), effects, *cloud.waiting()))
        elif arguments.exit_when_idle:
            await _idle(cloud, stop)
        if arguments.exit_when_idle:
            failed |= report.total(Event.GONE) > 0 or cloud.store.open_tasks() > 0
        elif not stop.is_set():
            with _local_env(cloud) as source:
                shown.console.print(_next_commands(cloud, source), markup=False, highlight=False, soft_wrap=True)
                shown.verbose = True
                await stop.wait()
            log.info("Ending: waiting for the attempts in flight")
    return int(failed)


async def _send(orders: Path, cloud: Cloud, stop: asyncio.Event) -> int:
    """Sends the orders as a web app would, with the producer in its own process. Returns its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "order_tasks", "send", str(orders), "--json"),
        env={**os.environ, **cloud.producer_environment()},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None

    async def end_when_stopped() -> None:
        await stop.wait()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()

    ending = asyncio.create_task(end_when_stopped())
    async for line in lines(process.stderr):
        log.warning("producer: %s", line)
    ending.cancel()
    return await process.wait()


async def _idle(cloud: Cloud, stop: asyncio.Event) -> None:
    """Waits until no running queue has a task, or until a signal."""
    while not stop.is_set() and not await cloud.idle():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.05)


@contextlib.contextmanager
def _local_env(cloud: Cloud) -> Iterator[str]:
    """Writes a file for other terminals to source, which points producers, operators and gcloud to this cloud.

    It is in the state folder. `local.env` in the working directory leads to that of the newest local cloud."""
    at = cloud.addresses()
    variables = {
        **cloud.producer_environment(),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS": f"{at['tasks_rest']}/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_PROJECT": at["queue"].split("/")[1],
    }
    file, link = cloud.log_file.with_name("local.env"), Path("local.env")
    file.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(file)
        shown = f". ./{link}    # or: . {shlex.quote(str(file))}, if another local cloud starts in this folder"
    except OSError:  # such as a folder that may not be written
        shown = f". {shlex.quote(str(file))}"
    try:
        yield shown
    finally:
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if link.readlink() == file:
                link.unlink()


def _next_commands(cloud: Cloud, source: str) -> str:
    """Returns the commands to try next, in another terminal. `source`: the command that sets the variables."""
    at = cloud.addresses()
    _, _, _, location, _, queue = at["queue"].split("/")
    token = f"curl -s '{at['issuer']}/token?email={at['invoker_email']}&audience={at['service_url']}'"
    order = '{"orderId": "ORD-2", "customerEmail": "grace@example.com"}'
    shop = [f"curl {at['shop']}/orders -d '{order}'", f"curl {at['shop']}/orders/ORD-2"] if "shop" in at else []
    commands = [
        source,
        ".venv/bin/python -m order_tasks send --order-id ORD-1 --email ada@example.com",
        *shop,
        f'curl -H "Authorization: Bearer $({token})" {at["service_url"]}/',
        f"gcloud tasks list --queue={queue} --location={location}",
    ]
    return "\nServing until Ctrl-C. In another terminal:\n" + "".join(f"  {command}\n" for command in commands)


if __name__ == "__main__":
    sys.exit(main())
