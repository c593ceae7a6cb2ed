"""The handler's image: its Artifact Registry repository, and its build from handler/ or its copy of another image.

Whatever the service runs is in the stack's own repository, so that no change of another stack can delete it. Returns
a digest, never a tag, because a tag can move to another image without a deployment. Pushes with the registry login of
the machine that deploys, so no credential enters the state.
"""

import asyncio
import os
import stat
from pathlib import Path

import pulumi
import pulumi_docker as docker
from pulumi_gcp import artifactregistry

from components.apis import Scope

KEPT_IMAGES = 10
"""Newest images that stay in the repository, beside the one that was deployed last."""


class HandlerImageArgs(Scope):
    repository_name: str
    handler_context: str
    """Folder of the Dockerfile, relative to the project: an absolute path would be a change on another machine."""
    image: str
    """An image by digest to copy instead of building one; if empty, one is built."""


class HandlerImage(pulumi.ComponentResource):
    """cloud-run-tasks:index:HandlerImage. Produces: Repository `<name>-repository`, and Image
    `<name>`, or ImageCopy `<name>-copy` if an image is named."""

    digest: pulumi.Output[str]
    """`<repository>/<image>@sha256:...`; known when the image is in the repository."""

    def __init__(self, name: str, args: HandlerImageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cloud-run-tasks:index:HandlerImage", name, None, opts)
        repository = artifactregistry.Repository(
            f"{name}-repository",
            project=args["project"],
            location=args["location"],
            repository_id=args["repository_name"],
            format="DOCKER",
            labels=args["labels"],
            description="Images of the order handler",
            cleanup_policies=[
                {"id": "newest", "action": "KEEP", "most_recent_versions": {"keep_count": KEPT_IMAGES}},
                # what is deployed is the latest: also an old image that was deployed again
                {"id": "deployed", "action": "KEEP", "condition": {"tag_state": "TAGGED", "tag_prefixes": ["latest"]}},
                {"id": "others", "action": "DELETE", "condition": {"tag_state": "ANY"}},
            ],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["artifactregistry"]]),
        )
        in_repository = pulumi.ResourceOptions(parent=self, depends_on=[repository])
        registry = f"{args['location']}-docker.pkg.dev/{args['project']}"
        image_name = f"{registry}/{args['repository_name']}/{args['service_name']}"
        if args["image"]:
            own = f"{image_name}@{args['image'].partition('@')[2]}"
            self.digest = ImageCopy(f"{name}-copy", args["image"], own, in_repository).urn.apply(lambda _: own)
        else:
            settle_modes(Path(args["handler_context"]))
            image = docker.Image(
                name,
                image_name=f"{image_name}:latest",
                build={
                    "context": args["handler_context"],
                    "dockerfile": f"{args['handler_context']}/Dockerfile",
                    "platform": "linux/amd64",
                    "builder_version": docker.BuilderVersion.BUILDER_BUILD_KIT,
                },
                opts=in_repository,
            )
            self.digest = image.repo_digest
        self.register_outputs({"digest": self.digest})


class ImageCopy(pulumi.ComponentResource):
    """cloud-run-tasks:index:ImageCopy. Produces no resource: the engine calls a hook when the image is another one."""

    def __init__(self, name: str, source: str, image: str, opts: pulumi.ResourceOptions) -> None:
        """`image`: the copy, by digest."""

        async def copy(_: pulumi.ResourceHookArgs) -> None:
            await copy_image(source, f"{image.partition('@')[0]}:latest")

        copies = pulumi.ResourceHook(name, copy)
        opts.hooks = pulumi.ResourceHookBinding(before_create=[copies], before_update=[copies])
        super().__init__("cloud-run-tasks:index:ImageCopy", name, {"image": image}, opts)
        self.register_outputs({})


async def copy_image(source: str, target: str) -> None:
    """Copies an image without changing its digest. RuntimeError says why a registry refused, and what to do."""
    copying = await asyncio.create_subprocess_exec(
        *("skopeo", "copy", "--quiet", "--all", "--preserve-digests", f"docker://{source}", f"docker://{target}"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, trouble = await copying.communicate()
    if copying.returncode:
        raise RuntimeError(
            f"{source} was not copied to {target}: {trouble.decode().strip()}. If the registry refuses, sign in: "
            f"gcloud auth configure-docker {source.partition('/')[0]},{target.partition('/')[0]}"
        )


def settle_modes(folder: Path) -> None:
    """Gives each file the mode of a checkout under umask 022: the build's digest includes modes."""
    for place, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for file in (Path(place, each) for each in files):
            mode = file.lstat().st_mode
            settled = 0o755 if mode & stat.S_IXUSR else 0o644
            if stat.S_ISREG(mode) and stat.S_IMODE(mode) != settled:
                file.chmod(settled)
