"""The handler as containers of its image, whatever it runs: built as the program declares, or the image that it names.

Owns what Docker does for the local cloud: the build, an instance's `docker run`, its kill, and the removal of what an
earlier run left behind. Never runs an image as root. An instance sees the folder of SQLite's file and nothing more of
the state. Refuses systems other than Linux, since an instance shares this machine's network and, over SQLite's file,
its memory.
"""

import asyncio
import dataclasses
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from local.cloud_run.runtime import MODULE, Runtime

log = logging.getLogger("local.cloud_run.containers")

LABEL = "cloud-run-tasks.state"
"""Label of each container: the folder of the local cloud that it belongs to."""


class ContainerError(Exception):
    """Docker cannot build or run the image; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Containers(Runtime):
    """Runs the handler as a container of its image. Changes of the code are not noticed: they need a new image."""

    image: str
    user: str
    """`uid:gid` that may write to `database`."""
    service: str
    database: Path | None
    """SQLite's file."""
    remedy = "install Docker"

    @classmethod
    def of(
        cls, source: Mapping[str, Any] | str, project: Path, service: str, folder: Path, database: Path | None
    ) -> Self:
        """Build the image, with Docker's progress on standard error, or pull it if it is not here.

        `source`: what to build, as pulumi-docker takes it with paths in `project`, or the image to pull. `folder`: the
        state's, where containers that an earlier run left behind are removed. Raises ContainerError."""
        _remove_old(folder)
        if not isinstance(source, str):
            image = _build(source, project, f"{service}:local", folder / "image")
            size = _docker("image", "inspect", "--format", "{{.Size}}", image)
            log.info("Built %s:local: %.0f MB", service, int(size) / 1e6)
        else:
            image = source
            if not _docker("image", "ls", "--quiet", image):
                _docker("pull", "--quiet", image)
        folder = folder.resolve()
        user = _docker("image", "inspect", "--format", "{{.Config.User}}", image).strip()
        if os.geteuid() != 0:
            user = f"{os.geteuid()}:{os.getegid()}"
        elif not re.fullmatch("[1-9][0-9]*:[0-9]+", user):  # never root, but nobody
            user = "65534:65534"
        if database:
            database.touch(0o600)
            for path in (database.parent, *database.parent.iterdir()):
                os.chown(path, *map(int, user.split(":")))
        return cls(folder, image, user, service, database)

    def command(self, environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        name = ("--name", self._name(environment["PORT"]))
        return self._docker_run(environment, name), {**os.environ, **environment}

    def prepare(self, environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]] | None:
        entry_point = _docker("image", "inspect", "--format", "{{json .Config.Cmd}}", self.image)
        if MODULE not in entry_point:
            return None
        schema = ("python", "-m", f"{MODULE}.schema")
        return [*self._docker_run(environment), *schema], {**os.environ, **environment}

    def _docker_run(self, environment: Mapping[str, str], more: Sequence[str] = ()) -> list[str]:
        return [
            *("docker", "run", "--rm", "--network", "host", "--user", self.user, "--label", f"{LABEL}={self.folder}"),
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *(("--volume", f"{self.database.parent}:{self.database.parent}") if self.database else ()),
            *more,
            # by name only, since every user can read the values in the list of processes
            *(part for variable in environment for part in ("--env", variable)),
            self.image,
        ]

    def kill(self, process: asyncio.subprocess.Process, port: int) -> None:
        # Docker's client, `process`, ends with the container
        if subprocess.run(["docker", "kill", self._name(port)], capture_output=True, check=False).returncode != 0:
            process.kill()  # it has not started one yet

    def _name(self, port: int | str) -> str:
        return f"{self.service}-{port}"


def _remove_old(folder: Path) -> None:
    if sys.platform != "linux":
        raise ContainerError("--container works on Linux only; leave it out to run the handler as processes")
    left = _docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={folder.resolve()}").split()
    if left:
        _docker("rm", "--force", *left)


def _build(build: Mapping[str, Any], project: Path, tag: str, id_file: Path) -> str:
    """Returns the id of the image."""
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
    """Runs a command of Docker and returns its output. Raises ContainerError."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ContainerError("--container needs Docker, and there is no `docker` on the path; install it") from None
    if done.returncode != 0:
        raise ContainerError(f"docker {arguments[0]} failed: {done.stderr.strip()}; fix that, or leave out --container")
    return done.stdout
