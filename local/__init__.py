"""The local cloud: the very program that `pulumi up` deploys, on one machine."""

import os

# handlers are started by fork; gRPC's own handling of a fork would crash some of them before they begin
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# its C core would comment on a port in use before we do
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
