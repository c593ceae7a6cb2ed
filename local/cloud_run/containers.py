"""The handler as containers of its image, built as the program declares it.

Owns what Docker does for the local cloud: the build, an instance's `docker run`, its kill, and the removal of what an
earlier run left behind. Stricter than Cloud Run: an instance may write to the state folder and nowhere else. Refuses
systems other than Linux, since an instance shares this machine's network and, over SQLite's file, its memory.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

log = logging.getLogger("local.cloud_run.containers")

LABEL = "cloud-run-tasks.state"
"""On each container: the folder of the local cloud that it belongs to."""


class ContainerError(Exception):
    """Docker cannot do what is asked for; the message says what to do."""


class Containers:
    """Runs the handler as a container of its image."""

    end_signal = signal.SIGTERM
    """What Docker's client gets if the local cloud dies: it passes this one on to its container."""

    def __init__(self, image: str, user: str, service: str, folder: Path) -> None:
        """`user`: `uid:gid` that may write to `folder`, the state's."""
        self.folder = folder
        self._service = service
        self._run = [
            *("docker", "run", "--rm", "--network", "host", "--user", user, "--label", f"{LABEL}={folder}"),
            *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--volume", f"{folder}:{folder}"),
        ]
        self._image = image

    @classmethod
    def built(cls, build: Mapping[str, Any], project: Path, service: str, folder: Path) -> Self:
        """Build the image, Docker's progress on standard error, and remove what an earlier run in `folder` left behind.

        `build`: as pulumi-docker takes it, with paths in `project`. Raises ContainerError."""
        if sys.platform != "linux":
            raise ContainerError("--container works on Linux only; leave it out to run the handler as processes")
        folder = folder.resolve()
        left = _docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={folder}").split()
        if left:
            _docker("rm", "--force", *left)
        image = _build(build, project, f"{service}:local", folder / "image")
        user, size = _docker("image", "inspect", "--format", "{{.Config.User}} {{.Size}}", image).split()
        log.info("Built %s:local: %.0f MB", service, int(size) / 1e6)
        if os.geteuid() != 0:
            user = f"{os.geteuid()}:{os.getegid()}"
        else:  # never root: what the handler writes to is the image's user's
            for path in (folder, *folder.glob("orders.sqlite*")):
                os.chown(path, *map(int, user.split(":")))
        return cls(image, user, service, folder)

    def command(self, module: str, environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        """Arguments and whole environment of a process that runs a module of the handler in a container."""
        name = ("--name", self._name(environment["PORT"])) if "PORT" in environment else ()
        # by name only: the list of processes, which everybody may read, shows no value
        variables = [part for variable in environment for part in ("--env", variable)]
        return [*self._run, *name, *variables, self._image, "python", "-m", module], {**os.environ, **environment}

    def kill(self, process: asyncio.subprocess.Process, port: int) -> None:
        """kill -9 the instance that listens on a port; its Docker client, `process`, ends with it."""
        if subprocess.run(["docker", "kill", self._name(port)], capture_output=True, check=False).returncode != 0:
            process.kill()  # it has not started one yet

    def _name(self, port: int | str) -> str:
        return f"{self._service}-{port}"


def _build(build: Mapping[str, Any], project: Path, tag: str, id_file: Path) -> str:
    """The id of the image."""
    variables = [part for name, value in build.get("args", {}).items() for part in ("--build-arg", f"{name}={value}")]
    done = subprocess.run(
        [
            *("docker", "build", "--tag", tag, "--iidfile", id_file),
            *("--platform", build["platform"], "--file", build["dockerfile"], *variables, build["context"]),
        ],
        cwd=project,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode != 0:
        raise ContainerError("the handler's image cannot be built; the lines above say why")
    return id_file.read_text()


def _docker(*arguments: str) -> str:
    """What a command of Docker prints."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ContainerError("--container needs Docker, and there is no `docker` on the path; install it") from None
    if done.returncode != 0:
        raise ContainerError(
            f"docker {arguments[0]} failed: {done.stderr.strip()}; mend that, or leave out --container"
        )
    return done.stdout
