"""The local cloud: the very program that `pulumi up` deploys, on one machine."""

import os

# gRPC would otherwise print a line for each handler process that is started
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
