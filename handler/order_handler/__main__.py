"""Serves the handler on $PORT until SIGTERM, then finishes what is in flight and ends with 0."""

import os
import signal
import sys

import uvicorn

from order_handler import logs
from order_handler.app import App
from order_handler.environment import Environment


def main() -> None:
    try:
        environment = Environment.read(os.environ)
        app = App.configured(environment)
    except ValueError as error:
        sys.exit(str(error))
    logs.to_stdout()
    # uvicorn ends gracefully, then raises the signal once more for whoever handled it before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        app,
        host=environment.host,
        port=environment.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="info",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # Longer than any proxy keeps an idle connection, so that none is closed under a request that is on its way.
        timeout_keep_alive=620,
        # Cloud Run kills 10 s after SIGTERM.
        timeout_graceful_shutdown=8,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
