"""Serves the handler on $PORT until SIGTERM, then finishes what is in flight and ends with 0."""

import logging
import os
import sys

import uvloop

from order_handler import logs
from order_handler.app import App
from order_handler.environment import Environment


def main() -> None:
    try:
        app = App.configured(Environment.read(os.environ))
    except ValueError as error:
        sys.exit(str(error))
    logs.to_stdout()
    try:
        uvloop.run(app.serve())
    except OSError as error:
        logging.getLogger(__name__).error("Cannot serve: %s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
