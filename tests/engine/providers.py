"""Google's and Docker's providers as the engine sees them, stood in for by a server of our own.

It computes what the servers compute (`local.program.servers`), and knows which inputs cannot change in place.
It takes every input that the SDK sends: whether a real provider accepts it, what a default does to a later diff, and
whether the deployer may do it at all, only a real `pulumi up` can show.
"""

# ruff: noqa: N802 - methods are named by the protocol

import importlib.metadata
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from local.program import SERVICE_URL
from local.program.servers import compute_outputs

PACKAGES = ("gcp", "docker")
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""The protocol's text for an unknown value."""
FORCE_NEW = {
    *("project", "location", "name", "service", "accountId", "repositoryId", "format", "secretId", "replication"),
    *("secret", "secretData", "serviceAccountId", "role", "member"),
}
"""Inputs whose change replaces the resource, of whichever type, as the schemas of Google's provider say."""


class Cloud:
    """The cloud behind the stand-in providers."""

    def __init__(self) -> None:
        self.context = "sha256:first"
        """Digest of the files that the image is built from."""
        self.changed: list[str] = []
        """Names of the resources that were created, updated or deleted, previews excluded."""


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """One package's provider."""

    def __init__(self, package: str, cloud: Cloud) -> None:
        self._version = importlib.metadata.version(f"pulumi-{package}")
        self._cloud = cloud

    def Attach(self, request: plugin_pb2.PluginAttach, context: grpc.ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    def Handshake(
        self, request: provider_pb2.ProviderHandshakeRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ProviderHandshakeResponse:
        return provider_pb2.ProviderHandshakeResponse()

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
        old, new = json_format.MessageToDict(request.old_inputs), json_format.MessageToDict(request.news)
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
            self._record(request.urn)
        return provider_pb2.CreateResponse(id=id_, properties=_struct({**inputs, **added}))

    def Update(self, request: provider_pb2.UpdateRequest, context: grpc.ServicerContext) -> provider_pb2.UpdateResponse:
        """What an update changes beside the inputs is not known in its preview: a digest is, an address is not."""
        old, inputs = json_format.MessageToDict(request.olds), json_format.MessageToDict(request.news)
        _, added = compute_outputs(_token(request.urn), _name(request.urn), inputs, SERVICE_URL)
        if request.preview:
            added = {key: value if old.get(key) == value else UNKNOWN for key, value in added.items()}
        else:
            self._record(request.urn)
        return provider_pb2.UpdateResponse(properties=_struct({**inputs, **added}))

    def Read(self, request: provider_pb2.ReadRequest, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        """Nothing changes behind Pulumi's back."""
        return provider_pb2.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

    def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        if json_format.MessageToDict(request.properties).get("deletionProtection"):
            reason = "cannot destroy service without setting deletion_protection=false"
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        self._record(request.urn)
        return empty_pb2.Empty()

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    def _record(self, urn: str) -> None:
        self._cloud.changed.append(_name(urn))


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
