"""`console`: serves the operator's page on this machine."""

import argparse
import os
import secrets
import socket
import sys
from pathlib import Path

from order_tasks.cli.arguments import database_url, read_config
from order_tasks.errors import ConfigError
from order_tasks.operations import Operations
from order_tasks.operations.times import Clock

_LOCAL_SECONDS, _SECONDS = 2.0, 10.0
"""Between two looks. A project may list 600 pages of tasks a minute."""


def console(args: argparse.Namespace, clock: Clock) -> int:
    """Serve a page that shows all this, and whose buttons run these commands. Needs order-tasks[console]."""
    try:
        import uvicorn

        from order_tasks.console.app import Console
        from order_tasks.console.local_cloud import LocalCloud
    except ImportError as error:
        raise ConfigError(f"{error}: install order-tasks[console]") from error
    config = read_config(args, dead_letters=True)
    log, breakages = (os.environ.get(f"ORDER_TASKS_{name}") for name in ("LOG", "BREAKAGES_URL"))
    listener = socket.create_server(("127.0.0.1", args.port)) if args.fd is None else socket.socket(fileno=args.fd)
    database = database_url(args)
    with listener, Operations(config, database, clock) as operations:
        page = Console(
            operations,
            environment={**os.environ, **config.environment(), "ORDER_TASKS_DATABASE_URL": database or ""},
            local=LocalCloud(Path(log), breakages) if log and breakages else None,
            dashboard=config.dashboard_url,
            every=_SECONDS if config.emulator_host is None else _LOCAL_SECONDS,
            token=secrets.token_urlsafe(),
        )
        if args.fd is None:
            sys.stdout.write(f"{page.address(listener.getsockname()[1])}\n")
            sys.stdout.flush()
        uvicorn.run(
            page.application(), fd=listener.fileno(), log_level="warning", timeout_graceful_shutdown=1, ws="none"
        )
    return 0
