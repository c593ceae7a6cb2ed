"""Reads the resources that the local cloud realises from what the program declares.

These are queues, jobs, accounts, grants, secrets and the Cloud Run service with its image. The rest has no effect here.
"""

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from local.cloud_run.front_door import Service
from local.cloud_scheduler import Job
from local.cloud_tasks.messages import Message, QueueMessage
from local.program import Evaluation, ProgramError, Resource


@dataclasses.dataclass(frozen=True)
class Declared:
    """The part of an evaluation that the local cloud realises."""

    queues: tuple[Message, ...]
    project: str
    accounts: frozenset[str]
    """E-mails."""
    service: Service
    handler_account: str
    """E-mail of the account that the service runs as."""
    roles: frozenset[tuple[str, str, str]]
    """Each grant on a queue: the queue's short name, role and member."""
    image: str
    """The image that the service runs, by digest."""
    build: Mapping[str, Any] | None
    """Build options of that image, as pulumi-docker's inputs; paths are relative to the project. None if the program
    does not build it."""
    exports: Mapping[str, Any]
    jobs: tuple[Job, ...] = ()
    """Jobs of Cloud Scheduler."""

    def grants(self, queue: str) -> list[tuple[str, str]]:
        """Role and member of each grant on a queue (full path)."""
        return [(role, member) for name, role, member in self.roles if name == queue.rpartition("/")[2]]


def declared(evaluation: Evaluation) -> Declared:
    """Read the resources; raises ProgramError if the local cloud cannot realise them."""
    try:
        return _declared(evaluation)
    except KeyError as error:
        raise ProgramError(f"the program does not declare {error}, which the local cloud needs") from error


def _declared(evaluation: Evaluation) -> Declared:
    services = evaluation.of_type("gcp:cloudrunv2/service:Service")
    if len(services) != 1:
        names = ", ".join(sorted(service.inputs["name"] for service in services))
        raise ProgramError(
            f"the program declares {len(services)} Cloud Run services{f' ({names})' if names else ''}: the local cloud "
            "has one front door, so it runs programs with exactly one; declare the others in another program"
        )
    missing = [
        name
        for name in ("service_url", "invoker_email", "queue", "dead_letter_queue")
        if not evaluation.exports.get(name)
    ]
    if missing:
        raise ProgramError(f"the program does not export {', '.join(missing)}, which producers need")
    service = services[0].inputs
    account = service["template"]["serviceAccount"]
    image = service["template"]["containers"][0]["image"]
    return Declared(
        queues=tuple(_queue(resource) for resource in evaluation.of_type("gcp:cloudtasks/queue:Queue")),
        project=service["project"],
        accounts=frozenset(a.outputs["email"] for a in evaluation.of_type("gcp:serviceaccount/account:Account")),
        service=Service(
            name=service["name"],
            timeout=float(service["template"]["timeout"].rstrip("s")),
            max_instances=int(service["template"]["scaling"]["maxInstanceCount"]),
            concurrency=int(service["template"]["maxInstanceRequestConcurrency"]),
            environment={
                env["name"]: env["value"] if "value" in env else _secret(evaluation, env, account)
                for env in service["template"]["containers"][0]["envs"]
            },
            invokers=frozenset(
                binding.inputs["member"]
                for binding in evaluation.of_type("gcp:cloudrunv2/serviceIamMember:ServiceIamMember")
                if binding.inputs["role"] == "roles/run.invoker" and binding.inputs["name"] == service["name"]
            ),
            audiences=frozenset(service.get("customAudiences", ())),
        ),
        handler_account=account,
        roles=frozenset(
            (grant.inputs["name"], grant.inputs["role"], grant.inputs["member"])
            for grant in evaluation.of_type("gcp:cloudtasks/queueIamMember:QueueIamMember")
        ),
        image=image,
        build=next(
            (
                built.inputs["build"]
                for built in evaluation.of_type("docker:index/image:Image")
                if built.outputs["repoDigest"] == image
            ),
            None,
        ),
        exports=evaluation.exports,
        jobs=tuple(_job(evaluation, job) for job in evaluation.of_type("gcp:cloudscheduler/job:Job")),
    )


def _job(evaluation: Evaluation, resource: Resource) -> Job:
    values = resource.inputs
    if "httpTarget" not in values:
        raise ProgramError(f"the job {values['name']} has no httpTarget; the local cloud runs no other jobs")
    target = values["httpTarget"]
    token = target.get("oidcToken", {})
    job = Job(
        name=values["name"],
        schedule=values["schedule"],
        time_zone=values.get("timeZone", "UTC"),
        url=target["uri"],
        method=target.get("httpMethod", "POST"),
        headers=target.get("headers", {}),
        body=base64.b64decode(target.get("body", "")),
        deadline=float(values.get("attemptDeadline", "180s").rstrip("s")),
        email=token.get("serviceAccountEmail"),
        audience=token.get("audience", target["uri"]),
        paused=values.get("paused", False),
    )
    accounts = {account.outputs["email"] for account in evaluation.of_type("gcp:serviceaccount/account:Account")}
    if job.email and job.email not in accounts:
        raise ProgramError(f"the job {job.name} signs in as {job.email}, which the program does not declare")
    try:
        job.next_run(0)
    except ValueError as error:
        raise ProgramError(f"the job {job.name} cannot run: {error}") from error
    return job


def _secret(evaluation: Evaluation, env: Mapping[str, Any], account: str) -> str:
    """The value of a variable from Secret Manager; raises ProgramError if the service's account may not read it."""
    name = env["valueSource"]["secretKeyRef"]["secret"]
    readers = {
        grant.inputs["member"]
        for grant in evaluation.of_type("gcp:secretmanager/secretIamMember:SecretIamMember")
        if grant.inputs["secretId"] == name and grant.inputs["role"] == "roles/secretmanager.secretAccessor"
    }
    if f"serviceAccount:{account}" not in readers:
        raise ProgramError(
            f"{account} may not read the secret {name}, so {env['name']} stays unset and no instance starts; "
            "declare a gcp.secretmanager.SecretIamMember with roles/secretmanager.secretAccessor for it"
        )
    [value] = [
        version.inputs["secretData"]
        for version in evaluation.of_type("gcp:secretmanager/secretVersion:SecretVersion")
        if version.inputs["secret"].rpartition("/")[2] == name
    ]
    return str(value)


def _queue(resource: Resource) -> Message:
    """The queue as a message of Cloud Tasks."""
    inputs = resource.inputs
    limits = {key: value for key, value in inputs["rateLimits"].items() if key != "maxBurstSize"}
    message = {
        "name": resource.id,
        "rateLimits": limits,
        "retryConfig": inputs["retryConfig"],
        "state": inputs.get("desiredState", "RUNNING"),
    }
    if "httpTarget" in inputs:
        message["httpTarget"] = inputs["httpTarget"]
    return json_format.ParseDict(message, QueueMessage())
