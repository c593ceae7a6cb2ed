"""How an instance of the handler is started: as a process of its Python project, or by any command."""

import abc
import asyncio
import dataclasses
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

MODULE = "order_handler"
"""The module that the handler's image runs."""


@dataclasses.dataclass(frozen=True)
class Runtime(abc.ABC):
    """Starts and kills instances."""

    folder: Path
    """The working directory of an instance."""

    end_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """What an instance gets if the local cloud dies: it may have programs of its own to end."""
    obeys_host: ClassVar[bool] = False
    """Whether an instance listens on HOST. Cloud Run sets none, so a program may listen on 127.0.0.1 alone."""
    remedy: ClassVar[str]
    """What to do if the program that should run does not exist."""

    @property
    def sources(self) -> Sequence[Path]:
        """Files and folders of the handler's code whose changes restart the instances."""
        return ()

    @abc.abstractmethod
    def command(self, environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the arguments and the whole environment of an instance."""

    def prepare(self, environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]] | None:
        """Return the command that creates the handler's missing tables; None if this handler has none."""
        return None

    def kill(self, process: asyncio.subprocess.Process, port: int) -> None:
        """Kill -9 the instance that listens on a port."""
        os.killpg(process.pid, signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Processes(Runtime):
    """Runs the handler as a process in the locked environment of its folder."""

    python: str = ".venv/bin/python"
    module: str = MODULE
    end_signal = signal.SIGKILL
    """A handler that is frozen or hangs obeys no other."""
    obeys_host = True
    remedy = "run `make setup`, or use --handler or --container for a handler that is not this Python project"

    @property
    def sources(self) -> Sequence[Path]:
        return [file.parent for file in self.folder.glob("*/__init__.py")]

    def command(self, environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        return self._run(self.module, environment)

    def prepare(self, environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]] | None:
        schema = (self.folder / self.module / "schema.py").exists()
        return self._run(f"{self.module}.schema", environment) if schema else None

    def _run(self, module: str, environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        own = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
        return (self.python, "-m", module), {**own, **environment}


@dataclasses.dataclass(frozen=True)
class Command(Runtime):
    """Runs the handler by a command of the shell. It gets PORT, as a container on Cloud Run does."""

    text: str
    remedy = "correct the command after --handler"

    @property
    def sources(self) -> Sequence[Path]:
        """The files and folders that the command names; not a program with an absolute path, such as an interpreter."""
        program, *arguments = shlex.split(self.text)
        named = [*arguments, *([] if program.startswith("/") else [program])]
        return [self.folder / word for word in named if (self.folder / word).exists()]

    def command(self, environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        return ("/bin/sh", "-c", self.text), {**os.environ, **environment}
