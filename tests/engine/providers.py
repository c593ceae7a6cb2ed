"""Google's and Docker's providers as the engine sees them, stood in for by a server of our own.

It computes what the servers compute (`local.program.servers`), knows which inputs cannot change in place, and fails as
Google's provider does: what could not be brought to its state is recorded as if it had been. It takes every input that
the SDK sends: whether a real provider accepts it, what a default does to a later diff, and whether the deployer may do
it at all, only a real `pulumi up` can show.
"""

# ruff: noqa: N802 - methods are named by the protocol

import importlib.metadata
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2, json_format, struct_pb2
from google.rpc import status_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from local.program import SERVICE_URL
from local.program.servers import compute_outputs, service_state

PACKAGES = ("gcp", "docker")
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""The protocol's text for an unknown value."""
FORCE_NEW = {
    *(
        "project",
        "location",
        "region",
        "name",
        "service",
        "accountId",
        "repositoryId",
        "format",
        "secretId",
        "replication",
    ),
    *("secret", "secretData", "serviceAccountId", "role", "member"),
}
"""Inputs whose change replaces the resource, of whichever type, as the schemas of Google's provider say."""
QUEUE = "gcp:cloudtasks/queue:Queue"
SERVICE = "gcp:cloudrunv2/service:Service"


class Cloud:
    """The cloud behind the stand-in providers."""

    def __init__(self) -> None:
        self.context = "sha256:first"
        """Digest of the files that the image is built from."""
        self.requests: list[str] = []
        """What was asked for, such as `create Queue queue`, previews excluded."""
        self.refusal = ""
        """Why APIs and Cloud Run refuse requests; empty if they do not."""
        self.unready = ""
        """Why new revisions do not become ready; empty if they do."""
        self.pause_fails = False
        """The call that pauses a new queue fails."""
        self.services: dict[str, dict[str, Any]] = {}
        """What `getService` answers, by name."""
        self.queue_states: dict[str, str] = {}
        """RUNNING or PAUSED, by the queue's path."""


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """One package's provider."""

    def __init__(self, package: str, cloud: Cloud) -> None:
        self._version = importlib.metadata.version(f"pulumi-{package}")
        self._cloud = cloud

    def Attach(self, request: plugin_pb2.PluginAttach, context: grpc.ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._version)

    def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Check(self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        """Accept the inputs; Docker's adds the digest of the context, so that a changed file is a change."""
        inputs = json_format.MessageToDict(request.news)
        if _token(request.urn) == "docker:index/image:Image":
            inputs["build"]["contextDigest"] = self._cloud.context
        return provider_pb2.CheckResponse(inputs=_struct(inputs))

    def Diff(self, request: provider_pb2.DiffRequest, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        """Compares with the outputs, as Google's provider does: the engine keeps old inputs if an update failed."""
        new, old_inputs = json_format.MessageToDict(request.news), json_format.MessageToDict(request.old_inputs)
        outputs = json_format.MessageToDict(request.olds)
        old = {key: value for key, value in outputs.items() if key in new or key in old_inputs}
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        replaces = [key for key in changed if key in FORCE_NEW]
        kinds = provider_pb2.DiffResponse
        return provider_pb2.DiffResponse(
            changes=kinds.DIFF_SOME if changed else kinds.DIFF_NONE,
            diffs=changed,
            replaces=replaces,
            # what its program names cannot stand beside its successor
            deleteBeforeReplace=bool(replaces) and "name" in new,
        )

    def Create(self, request: provider_pb2.CreateRequest, context: grpc.ServicerContext) -> provider_pb2.CreateResponse:
        inputs = json_format.MessageToDict(request.properties)
        id_, added = compute_outputs(_token(request.urn), _name(request.urn), inputs, SERVICE_URL)
        if request.preview:
            id_, added = "", dict.fromkeys(added, UNKNOWN)
        else:
            self._record("create", request.urn)
            if self._cloud.refusal and _token(request.urn) in (SERVICE, "gcp:projects/service:Service"):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, self._cloud.refusal)
            trouble = self._apply(_token(request.urn), id_, inputs)
            if trouble:
                _fail(context, id_, inputs, inputs, trouble)
        return provider_pb2.CreateResponse(id=id_, properties=_struct({**inputs, **added}))

    def Update(self, request: provider_pb2.UpdateRequest, context: grpc.ServicerContext) -> provider_pb2.UpdateResponse:
        """What an update changes beside the inputs is not known in its preview: a digest is, an address is not."""
        old, inputs = json_format.MessageToDict(request.olds), json_format.MessageToDict(request.news)
        _, added = compute_outputs(_token(request.urn), _name(request.urn), inputs, SERVICE_URL)
        if request.preview:
            added = {key: value if old.get(key) == value else UNKNOWN for key, value in added.items()}
        elif all(old.get(key) == value for key, value in inputs.items()):
            return provider_pb2.UpdateResponse(properties=request.olds)  # the engine also updates what had failed
        else:
            self._record("update", request.urn)
            refused = self._cloud.refusal if _token(request.urn) == SERVICE else ""
            trouble = refused or self._apply(_token(request.urn), request.id, inputs)
            if trouble:
                _fail(context, request.id, {**old, **inputs}, inputs, trouble)
        return provider_pb2.UpdateResponse(properties=_struct({**inputs, **added}))

    def Read(self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        """Only services and queues change behind Pulumi's back."""
        outputs, inputs = json_format.MessageToDict(request.properties), json_format.MessageToDict(request.inputs)
        if _token(request.urn) == SERVICE:
            _, added = compute_outputs(SERVICE, "", inputs, SERVICE_URL)
            inputs = {key: self._cloud.services[inputs["name"]][key] for key in inputs}
            outputs = {**inputs, **added}
        elif _token(request.urn) == QUEUE:
            outputs["state"] = self._cloud.queue_states[request.id]
            if outputs.get("stackdriverLoggingConfig") == {"samplingRatio": 0}:
                del outputs["stackdriverLoggingConfig"]  # Google's provider never sends it
        return provider_pb2.ReadResponse(id=request.id, properties=_struct(outputs), inputs=_struct(inputs))

    def Invoke(self, request: provider_pb2.InvokeRequest, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        assert request.tok == "gcp:cloudrunv2/getService:getService"
        response = provider_pb2.InvokeResponse()
        getattr(response, "return").update(self._cloud.services[json_format.MessageToDict(request.args)["name"]])
        return response

    def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        if json_format.MessageToDict(request.properties).get("deletionProtection"):
            reason = "cannot destroy service without setting deletion_protection=false"
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        self._record("delete", request.urn)
        return empty_pb2.Empty()

    def _record(self, verb: str, urn: str) -> None:
        self._cloud.requests.append(f"{verb} {_token(urn).rpartition(':')[2]} {_name(urn)}")

    def _apply(self, token: str, id_: str, inputs: dict[str, Any]) -> str:
        """Bring the cloud to what the inputs say. Returns why that failed half-way, or nothing."""
        if token == SERVICE:
            self._cloud.services[inputs["name"]] = service_state(inputs, self._cloud.unready)
            return self._cloud.unready
        if token == QUEUE:
            state = inputs.get("desiredState", "RUNNING")
            if state == "PAUSED" and self._cloud.pause_fails:
                self._cloud.queue_states[id_] = "RUNNING"
                return "Error pausing queue"
            self._cloud.queue_states.setdefault(id_, state)
        return ""


def _fail(
    context: grpc.ServicerContext, id_: str, outputs: Mapping[str, Any], inputs: Mapping[str, Any], reason: str
) -> None:
    """Fail half-way; the engine records outputs and inputs all the same."""
    detail = any_pb2.Any()
    detail.Pack(
        provider_pb2.ErrorResourceInitFailed(
            id=id_, properties=_struct(outputs), inputs=_struct(inputs), reasons=[reason]
        )
    )
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=reason, details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, reason)


@contextmanager
def serving(cloud: Cloud) -> Iterator[str]:
    """Serve every package's provider; yields what PULUMI_DEBUG_PROVIDERS has to say."""
    with ExitStack() as servers:
        ports = {}
        for package in PACKAGES:
            server = grpc.server(servers.enter_context(ThreadPoolExecutor(8)))
            provider_pb2_grpc.add_ResourceProviderServicer_to_server(Provider(package, cloud), server)
            ports[package] = server.add_insecure_port("127.0.0.1:0")
            server.start()
            servers.callback(server.stop, None)
        yield ",".join(f"{package}:{port}" for package, port in ports.items())


def _token(urn: str) -> str:
    return urn.split("::")[2].rpartition("$")[2]


def _name(urn: str) -> str:
    return urn.split("::")[3]


def _struct(properties: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(properties)
    return struct
