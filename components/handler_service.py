"""The private Cloud Run service that handles the tasks.

Owns the service and the account that it runs as. Keeps the invoker check on and grants the service's own account
nothing here: what the handler may do is granted beside what it does it to.
"""

from typing import TypedDict

import pulumi
from pulumi_gcp import cloudrunv2, serviceaccount


class HandlerServiceArgs(TypedDict):
    run_api: pulumi.Resource
    """The enabled Cloud Run API."""
    iam_api: pulumi.Resource
    """The enabled IAM API."""
    project: str
    location: str
    service_name: str
    handler_account: str
    """Id of the account to run as."""
    image: pulumi.Input[str]
    """The image by digest."""
    memory: str
    """Of one instance, such as `512Mi`."""
    handler_timeout_seconds: int
    max_instances: int
    container_concurrency: int
    """Requests that one instance takes at once."""
    max_attempts: int
    """The handler's attempt budget."""
    deletion_protection: bool


class HandlerService(pulumi.ComponentResource):
    """cloud-run-tasks:index:HandlerService. Produces: Account `<name>-account`, Service `<name>`."""

    service_name: pulumi.Output[str]
    """The service's name, once it exists."""
    url: pulumi.Output[str]
    """The service's root URL, without a trailing slash: the address of tasks and the audience of their tokens."""
    account_email: pulumi.Output[str]
    """The account that the handler runs as."""

    def __init__(self, name: str, args: HandlerServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cloud-run-tasks:index:HandlerService", name, None, opts)
        account = serviceaccount.Account(
            f"{name}-account",
            project=args["project"],
            account_id=args["handler_account"],
            display_name="Task Handler",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["iam_api"]]),
        )
        service = cloudrunv2.Service(
            name,
            project=args["project"],
            location=args["location"],
            name=args["service_name"],
            deletion_protection=args["deletion_protection"],
            ingress="INGRESS_TRAFFIC_ALL",
            invoker_iam_disabled=False,
            template={
                "service_account": account.email,
                "timeout": f"{args['handler_timeout_seconds']}s",
                "max_instance_request_concurrency": args["container_concurrency"],
                "scaling": {"max_instance_count": args["max_instances"]},
                "containers": [
                    {
                        "image": args["image"],
                        "ports": {"container_port": 8080},
                        # without cpu_idle written, naming limits would bill the CPU around the clock
                        "resources": {
                            "limits": {"cpu": "1", "memory": args["memory"]},
                            "cpu_idle": True,
                            "startup_cpu_boost": True,
                        },
                        # probes once a second: the default of ten would be added to a cold start
                        "startup_probe": {
                            "http_get": {"path": "/", "port": 8080},
                            "initial_delay_seconds": 0,
                            "period_seconds": 1,
                            "timeout_seconds": 1,
                            "failure_threshold": 60,
                        },
                        "envs": [
                            {"name": "MAX_ATTEMPTS", "value": str(int(args["max_attempts"]))},
                            {"name": "GOOGLE_CLOUD_PROJECT", "value": args["project"]},
                        ],
                    }
                ],
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["run_api"]]),
        )
        self.service_name = service.name
        self.url = service.uri
        self.account_email = account.email
        self.register_outputs({"url": self.url, "account_email": self.account_email})
