"""The private Cloud Run service that handles the tasks.

Owns the service, the account that it runs as, its secrets, which only that account may read, and its way to a private
database. Cloud Run checks every caller. The handler's other rights are granted by the component that owns the resource.
A failed rollout fails every later deployment too, until the service runs what is declared.
"""

import hashlib
from collections.abc import Mapping

import pulumi
from pulumi_gcp import cloudrunv2, projects, secretmanager, serviceaccount

from components.apis import Scope

FINGERPRINT = "template-sha256"
"""Annotation of the service with a hash of the template that was last asked for."""
_INGRESS = {
    "all": "INGRESS_TRAFFIC_ALL",
    "internal-and-cloud-load-balancing": "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
    "internal": "INGRESS_TRAFFIC_INTERNAL_ONLY",
}


class HandlerServiceArgs(Scope):
    """docs/settings.md says what each setting means."""

    handler_account: str
    image: pulumi.Input[str]
    """The image by digest."""
    memory: str
    min_instances: int
    max_instances: int
    ingress: str
    vpc_network: str
    vpc_subnetwork: str
    cloud_sql_instance: str
    container_concurrency: int
    max_attempts: int
    simulate_effects: bool
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    """Empty ones are left out."""
    database_pool: int


class HandlerService(pulumi.ComponentResource):
    """cloud-run-tasks:index:HandlerService. Produces: Account `<name>-account`, Service `<name>`, per secret a Secret,
    SecretVersion and SecretIamMember `<name>-<secret>`, and with a Cloud SQL instance projects.IAMMember
    `<name>-cloud-sql`."""

    service_name: pulumi.Output[str]
    """The service's name; known, as the next two, when the service runs what is declared."""
    url: pulumi.Output[str]
    """The service's root URL, without a trailing slash."""
    image: pulumi.Output[str]
    """The image that it runs."""
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
        variables = {
            "MAX_ATTEMPTS": str(int(args["max_attempts"])),
            "HANDLER_TIMEOUT_SECONDS": str(int(args["handler_timeout_seconds"])),
            "DEAD_LETTER_QUEUE": args["dead_letter_queue"],
            "DATABASE_POOL": str(int(args["database_pool"])),
            "SIMULATE_EFFECTS": str(args["simulate_effects"]).lower(),
            "GOOGLE_CLOUD_PROJECT": args["project"],
            **args["environment"],
        }
        if args["has_outbox"]:  # the relay sends to the main queue
            variables["TASK_QUEUE"] = args["dead_letter_queue"].removesuffix("-dead-letters")
        environment: list[cloudrunv2.ServiceTemplateContainerEnvArgsDict] = [
            {"name": variable, "value": value} for variable, value in variables.items()
        ]
        readable: list[pulumi.Resource] = []
        for variable, value in args["secrets"].items():
            if not value:
                continue
            label = variable.lower().replace("_", "-")
            secret = secretmanager.Secret(
                f"{name}-{label}",
                project=args["project"],
                # the place of a secret never changes, so another region is another secret
                secret_id=f"{args['service_name']}-{label}-{args['location']}",
                replication={"user_managed": {"replicas": [{"location": args["location"]}]}},
                labels=args["labels"],
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
            environment.append(
                {
                    "name": variable,
                    "value_source": {"secret_key_ref": {"secret": secret.secret_id, "version": version.version}},
                }
            )
            reader = secretmanager.SecretIamMember(
                f"{name}-{label}",
                project=args["project"],
                secret_id=secret.secret_id,
                role="roles/secretmanager.secretAccessor",
                member=account.member,
                opts=child,
            )
            readable.append(reader)
        template: cloudrunv2.ServiceTemplateArgsDict = {}
        mounts: list[cloudrunv2.ServiceTemplateContainerVolumeMountArgsDict] = []
        if args["vpc_network"] or args["vpc_subnetwork"]:
            template["vpc_access"] = {
                "egress": "PRIVATE_RANGES_ONLY",
                "network_interfaces": [
                    {"network": args["vpc_network"] or None, "subnetwork": args["vpc_subnetwork"] or None}
                ],
            }
        if args["cloud_sql_instance"]:
            project, _, instance = args["cloud_sql_instance"].rsplit(":", 2)
            path = f"projects/{project}/instances/{instance}"
            client = projects.IAMMember(
                f"{name}-cloud-sql",
                project=project,  # the role exists on projects alone; the condition limits it
                role="roles/cloudsql.client",
                member=account.member,
                condition={
                    "title": instance,
                    "expression": f'resource.name == "{path}" && resource.type == "sqladmin.googleapis.com/Instance"',
                },
                opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["sqladmin"]]),
            )
            readable.append(client)
            template["volumes"] = [
                {"name": "cloudsql", "cloud_sql_instance": {"instances": [args["cloud_sql_instance"]]}}
            ]
            mounts = [{"name": "cloudsql", "mount_path": "/cloudsql"}]
        template |= {
            "labels": args["labels"],
            "service_account": account.email,
            "timeout": f"{args['handler_timeout_seconds']}s",
            "max_instance_request_concurrency": args["container_concurrency"],
            # a revision's own limits, which keep their old value, or 100, unless they are written
            "scaling": {"min_instance_count": 0, "max_instance_count": args["max_instances"]},
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
                    "volume_mounts": mounts or None,
                }
            ],
        }
        fingerprint = pulumi.Output.json_dumps(template, sort_keys=True).apply(_sha256)
        service = cloudrunv2.Service(
            name,
            project=args["project"],
            location=args["location"],
            name=args["service_name"],
            deletion_protection=False,  # the provider would refuse only after the rest is deleted: see lifecycle.py
            ingress=_INGRESS[args["ingress"]],
            labels=args["labels"],
            invoker_iam_disabled=False,
            custom_audiences=[args["audience"]],
            annotations={FINGERPRINT: fingerprint},
            scaling={"min_instance_count": args["min_instances"], "max_instance_count": args["max_instances"]},
            template=template,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args["apis"]["run"], *readable]),
        )
        image = service.template.apply(lambda template: template.containers[0].image if template.containers else "")
        outputs = pulumi.Output.all(service.name, service.uri, image)
        if not pulumi.runtime.is_dry_run():
            # Pulumi's state cannot tell: an update that failed is recorded as done
            deployed = cloudrunv2.get_service_output(
                project=args["project"], location=args["location"], name=service.name
            )
            outputs = pulumi.Output.all(outputs, deployed, service.annotations).apply(lambda found: _running(*found))
        self.service_name, self.url, self.image = outputs[0], outputs[1], outputs[2]
        self.account_member = account.member
        self.register_outputs({"url": self.url, "account_member": self.account_member})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _running(outputs: list[str], service: cloudrunv2.GetServiceResult, declared: Mapping[str, str]) -> list[str]:
    """Return the outputs, or raise if Cloud Run does not run what the declared annotations stand for."""
    [condition] = service.terminal_conditions
    reason = ""
    if condition.state != "CONDITION_SUCCEEDED":
        reason = f"it is not ready: {condition.message or condition.state}"
    elif service.annotations.get(FINGERPRINT) != declared[FINGERPRINT]:
        reason = "Cloud Run refused its last update, so it still runs the revision before"
    if reason:
        place = f"--region={service.location} --project={service.project}"
        raise pulumi.RunError(
            f"Cloud Run service {service.name}: {reason}\n"
            f"  Read its log: gcloud run services logs read {service.name} {place} --limit=50\n"
            "  Fix the cause, then run: pulumi up --refresh\n"
            "  If the cause was outside of the program, start a new revision first: "
            f"gcloud run services update {service.name} {place} --revision-suffix=retry-1"
        )
    return outputs
