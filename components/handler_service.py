"""The private Cloud Run service that handles the tasks.

Owns the service, the account that it runs as, and its secrets, which only that account may read. Cloud Run checks every
caller. The handler's other rights are granted by the component that owns the resource.
"""

from collections.abc import Mapping

import pulumi
from pulumi_gcp import cloudrunv2, secretmanager, serviceaccount

from components.apis import ProjectArgs


class HandlerServiceArgs(ProjectArgs):
    service_name: str
    handler_account: str
    """Id of the service account to run as."""
    audience: str
    """Accepted in tokens besides the service's URL, which changes with the service's name."""
    image: pulumi.Input[str]
    """The image by digest."""
    memory: str
    """Memory of one instance, such as `512Mi`."""
    handler_timeout_seconds: int
    min_instances: int
    """Instances that are kept ready, billed while idle."""
    max_instances: int
    container_concurrency: int
    """Requests that one instance handles at once."""
    max_attempts: int
    """Attempts after which the handler stores a task as a dead letter."""
    dead_letter_queue: str
    """Full path as text, because the queue is declared after the service."""
    task_queue: str
    """Full path of the main queue, which the relay sends to; empty if there is no outbox."""
    simulate_effects: bool
    """The handler only logs effects whose URL is not set."""
    environment: Mapping[str, str]
    """Further environment variables of the handler."""
    secrets: Mapping[str, str]
    """Secret environment variables of the handler; empty ones are left out."""
    database_pool: int
    """Most database connections of one instance."""
    deletion_protection: bool


class HandlerService(pulumi.ComponentResource):
    """cloud-run-tasks:index:HandlerService. Produces: Account `<name>-account`, Service `<name>`,
    and per secret a Secret, SecretVersion and SecretIamMember `<name>-<secret>`."""

    service_name: pulumi.Output[str]
    """The service's name; known when the service exists."""
    url: pulumi.Output[str]
    """The service's root URL, without a trailing slash."""
    account_member: pulumi.Output[str]
    """The account that the handler runs as, `serviceAccount:EMAIL`."""

    def __init__(self, name: str, args: HandlerServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cloud-run-tasks:index:HandlerService", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        account = serviceaccount.Account(
            f"{name}-account",
            project=args["project"],
            account_id=args["handler_account"],
            display_name="Task Handler",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["iam"]]),
        )
        environment: list[cloudrunv2.ServiceTemplateContainerEnvArgsDict] = [
            {"name": "MAX_ATTEMPTS", "value": str(int(args["max_attempts"]))},
            {"name": "HANDLER_TIMEOUT_SECONDS", "value": str(int(args["handler_timeout_seconds"]))},
            {"name": "DEAD_LETTER_QUEUE", "value": args["dead_letter_queue"]},
            {"name": "DATABASE_POOL", "value": str(int(args["database_pool"]))},
            {"name": "SIMULATE_EFFECTS", "value": str(args["simulate_effects"]).lower()},
            {"name": "GOOGLE_CLOUD_PROJECT", "value": args["project"]},
        ]
        for variable, value in args["environment"].items():
            environment.append({"name": variable, "value": value})
        if args["task_queue"]:
            environment.append({"name": "TASK_QUEUE", "value": args["task_queue"]})
        readable: list[pulumi.Resource] = []
        for variable, value in args["secrets"].items():
            if value:
                label = variable.lower().replace("_", "-")
                secret = secretmanager.Secret(
                    f"{name}-{label}",
                    project=args["project"],
                    secret_id=f"{args['service_name']}-{label}",
                    replication={"auto": {}},
                    opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["secretmanager"]]),
                )
                version = secretmanager.SecretVersion(
                    f"{name}-{label}",
                    secret=secret.id,
                    secret_data=value,
                    deletion_policy="ABANDON",  # the default would destroy it, and older revisions could not start
                    opts=child,
                )
                # by number: a new value makes a new revision, and an old revision keeps its own value
                reference: cloudrunv2.ServiceTemplateContainerEnvValueSourceSecretKeyRefArgsDict = {
                    "secret": secret.secret_id,
                    "version": version.version,
                }
                environment.append({"name": variable, "value_source": {"secret_key_ref": reference}})
                readable.append(
                    secretmanager.SecretIamMember(
                        f"{name}-{label}",
                        project=args["project"],
                        secret_id=secret.secret_id,
                        role="roles/secretmanager.secretAccessor",
                        member=account.member,
                        opts=child,
                    )
                )
        service = cloudrunv2.Service(
            name,
            project=args["project"],
            location=args["location"],
            name=args["service_name"],
            deletion_protection=args["deletion_protection"],
            ingress="INGRESS_TRAFFIC_ALL",
            invoker_iam_disabled=False,
            custom_audiences=[args["audience"]],
            template={
                "service_account": account.email,
                "timeout": f"{args['handler_timeout_seconds']}s",
                "max_instance_request_concurrency": args["container_concurrency"],
                "scaling": {
                    "min_instance_count": args["min_instances"],
                    "max_instance_count": args["max_instances"],
                },
                "containers": [
                    {
                        "image": args["image"],
                        "ports": {"container_port": 8080},
                        # if limits are set and cpu_idle is not, the CPU is billed around the clock
                        "resources": {
                            "limits": {"cpu": "1", "memory": args["memory"]},
                            "cpu_idle": True,
                            "startup_cpu_boost": True,
                        },
                        # the default period of 10 s would lengthen a cold start
                        "startup_probe": {
                            "http_get": {"path": "/", "port": 8080},
                            "initial_delay_seconds": 0,
                            "period_seconds": 1,
                            "timeout_seconds": 1,
                            "failure_threshold": 60,
                        },
                        # 503 for half a minute: the instance waits for something that never comes, and is replaced
                        "liveness_probe": {
                            "http_get": {"path": "/", "port": 8080},
                            "period_seconds": 10,
                            "timeout_seconds": 5,
                            "failure_threshold": 3,
                        },
                        "envs": environment,
                    }
                ],
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["run"], *readable]),
        )
        self.service_name = service.name
        self.url = service.uri
        self.account_member = account.member
        self.register_outputs({"url": self.url, "account_member": self.account_member})
