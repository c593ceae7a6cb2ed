"""The handler's image: its Artifact Registry repository and its build from handler/.

Returns a digest, never a tag, because a tag can move to another image without a deployment. Pushes with the Docker
login of the machine that deploys, so no credential enters the state.
"""

import pulumi
import pulumi_docker as docker
from pulumi_gcp import artifactregistry

from components.apis import ProjectArgs


class HandlerImageArgs(ProjectArgs):
    repository_name: str
    image_name: str
    handler_context: str
    """Folder of the Dockerfile, relative to the project: an absolute path would be a change on another machine."""
    image: str
    """An image by digest to use instead of building one; if empty, one is built."""


class HandlerImage(pulumi.ComponentResource):
    """cloud-run-tasks:index:HandlerImage. Produces: Repository `<name>-repository`, and Image
    `<name>` unless an image is named."""

    digest: pulumi.Output[str]
    """`<repository>/<image>@sha256:...`; known when the image is pushed."""

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
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["artifactregistry"]]),
        )
        if args["image"]:
            self.digest = pulumi.Output.from_input(args["image"])
        else:
            host = f"{args['location']}-docker.pkg.dev"
            image = docker.Image(
                name,
                image_name=repository.repository_id.apply(
                    lambda repository_id: f"{host}/{args['project']}/{repository_id}/{args['image_name']}:latest"
                ),
                build={
                    "context": args["handler_context"],
                    "dockerfile": f"{args['handler_context']}/Dockerfile",
                    "platform": "linux/amd64",
                    "builder_version": docker.BuilderVersion.BUILDER_BUILD_KIT,
                },
                opts=pulumi.ResourceOptions(parent=self, depends_on=[repository]),
            )
            self.digest = image.repo_digest
        self.register_outputs({"digest": self.digest})
