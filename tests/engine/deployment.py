"""One stack of the program under the real engine, with its own folder, state and settings, and stand-in providers.

The program runs in this process and the engine calls it, so that no language host is needed.
"""

import asyncio
import dataclasses
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pulumi import automation
from pulumi.automation._stack import StackInitMode

from local.program import PROJECT, ROOT

STEPS = (automation.OpType.CREATE, automation.OpType.UPDATE, automation.OpType.REPLACE, automation.OpType.DELETE)
"""The steps that a run records. It ignores unchanged resources, and the other steps of a replacement."""


@dataclasses.dataclass
class Run:
    """The result of one command of the engine; of a preview, what it would do."""

    steps: dict[str, str] = dataclasses.field(default_factory=dict)
    """Type and name -> step, such as `create`, `update rateLimits`, `replace name`, `delete`."""
    warnings: list[str] = dataclasses.field(default_factory=list)
    violations: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Policy and message of each violation."""
    exports: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""
    """What the command printed, if it failed."""


class _Stack(automation.Stack):
    """Does not run the CLI again after an update to ask for outputs and history: events tell the outputs."""

    def outputs(self) -> automation.OutputMap:
        return {}

    def info(self, show_secrets: bool = True) -> automation.UpdateSummary:
        return automation.UpdateSummary("update", datetime.now(UTC), "", {}, {}, "succeeded")


class Deployment:
    """A stack, from its creation to its removal."""

    def __init__(self, stack: str, providers: str, folder: Path, program: automation.PulumiFn) -> None:
        """`providers`: addresses, as PULUMI_DEBUG_PROVIDERS has them."""
        work = folder / "work"
        self.state = folder / "state"
        for each in (work, self.state):
            each.mkdir(parents=True)
        shutil.copy(ROOT / "Pulumi.yaml", work)
        self._settings = Path(shutil.copy(ROOT / f"Pulumi.{stack}.yaml", work))
        self._loops: set[asyncio.AbstractEventLoop] = set()

        def in_its_loop() -> Awaitable[None] | None:
            self._loops.add(asyncio.get_running_loop())
            return program()

        workspace = automation.LocalWorkspace(
            work_dir=str(work),
            program=in_its_loop,
            env_vars={
                "PULUMI_BACKEND_URL": self.state.as_uri(),
                "PULUMI_CONFIG_PASSPHRASE": "open sesame",
                "PULUMI_DEBUG_PROVIDERS": providers,
                "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
                "PULUMI_HOME": str(folder / "home"),
                "PULUMI_EXPERIMENTAL": "true",
                "PULUMI_SKIP_CHECKPOINTS": "true",  # the state is written once, at the end
                "PULUMI_SKIP_UPDATE_CHECK": "true",
            },
        )
        self._stack = _Stack(stack, workspace, StackInitMode.CREATE)
        self._write({"gcp:project": "shop-project"})

    def set_secrets(self, secrets: Mapping[str, str]) -> None:
        """`pulumi config set --secret`"""
        values = {f"{PROJECT}:{key}": automation.ConfigValue(text, secret=True) for key, text in secrets.items()}
        self._stack.set_all_config(values)

    def set(self, settings: Mapping[str, object]) -> None:
        """Writes settings into the stack's file, as a person would."""
        self._write({f"{PROJECT}:{key}": value for key, value in settings.items()})

    def _write(self, config: Mapping[str, object]) -> None:
        content = yaml.safe_load(self._settings.read_text())
        content["config"] |= config
        self._settings.write_text(yaml.safe_dump(content))

    def import_state(self, state: Mapping[str, Any]) -> None:
        """Replaces the state by one that an earlier program left, as `pulumi stack import` does."""
        self._stack.import_stack(automation.Deployment(version=3, deployment=dict(state)))

    def preview(self, settings: Mapping[str, object] | None = None, policies: Path | None = None) -> Run:
        """Previews an update. `settings`: further settings for this preview only."""
        before = self._settings.read_text()
        self.set(settings or {})
        run = self._run(self._stack.preview, policies)
        self._settings.write_text(before)
        return run

    def up(self, refresh: bool = True) -> Run:
        """Sends what it can without a preview, as CI does."""
        return self._run(self._stack.up, refresh=refresh)

    def destroy(self) -> Run:
        """Nothing is deleted if the preview, which `pulumi destroy` begins with, fails."""
        preview = self._run(self._stack.preview_destroy)
        return preview if preview.error else self._run(self._stack.destroy)

    def close(self) -> None:
        """End the runs of the program, which the automation API leaves with their loops where the engine ends first."""
        for loop in self._loops:
            for _ in range(100):  # a run's own thread may still be in it
                if loop.is_running():
                    time.sleep(0.1)
            if not loop.is_closed():
                left = asyncio.all_tasks(loop)
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(left, timeout=10) if left else asyncio.sleep(0))
                loop.close()

    def _run(self, command: Callable[..., object], policies: Path | None = None, **options: bool) -> Run:
        run = Run()
        packs = {"policy_packs": [str(policies)]} if policies else {}

        def note(event: automation.EngineEvent) -> None:
            if event.resource_pre_event:
                step = event.resource_pre_event.metadata
                name = f"{step.type.rpartition(':')[2]} {step.urn.rpartition('::')[2]}"
                if step.op in STEPS and not step.type.startswith("pulumi:"):
                    run.steps[name] = " ".join([step.op.value, *sorted(step.diffs or ())])
            if event.res_outputs_event and event.res_outputs_event.metadata.type == "pulumi:pulumi:Stack":
                stack = event.res_outputs_event.metadata.new
                run.exports = (stack and stack.outputs) or {}
            if event.diagnostic_event and event.diagnostic_event.severity == "warning":
                run.warnings.append(event.diagnostic_event.message)
            if event.policy_event:
                run.violations.append((event.policy_event.policy_name, event.policy_event.message))

        try:
            command(on_event=note, color="never", **packs, **options)
        except automation.CommandError as error:
            run.error = str(error)
        return run
