"""Serves the handler on $PORT until SIGTERM, finishes the orders that run, and exits with 0.

uvicorn owns connections, HTTP/1.1 and signals. What it does not limit, Cloud Run's front end does: the size of headers,
idle connections, TLS and HTTP/2.
"""

import os
import signal
import sys

import uvicorn
import uvloop

from order_handler import logs
from order_handler.app import App
from order_handler.environment import Environment

GRACE_SECONDS = 8
"""For the orders that run at SIGTERM. Cloud Run sends SIGKILL 10 s after it."""
_KEEP_ALIVE_SECONDS = 620
"""Longer than the front end keeps an idle connection, so that it never sends a request into one that closes."""


def main() -> None:
    try:
        environment = Environment.read(os.environ)
        app = App.configured(environment)
    except ValueError as error:
        sys.exit(str(error))
    logs.to_stdout()
    uvloop.run(_serve(app, environment.host, environment.port))


async def _serve(app: App, host: str, port: int) -> None:
    config = uvicorn.Config(
        app,
        host,
        port,
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="info",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    app.start()
    # uvicorn raises the signal that ended it once more, which must not change the exit code.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    await uvicorn.Server(config).serve()
    await app.close()
    # At once: the interpreter would wait for each thread, and one may wait for a host that is gone.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
