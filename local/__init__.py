"""The local cloud: runs the program that `pulumi up` deploys on one machine."""

import os

# Handlers are started by fork, and gRPC's own handling of a fork would crash some of them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Its C core would report a port in use before we do.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
