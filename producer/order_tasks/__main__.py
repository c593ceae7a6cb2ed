"""Runs the command line: `python -m order_tasks`."""

import sys

from order_tasks.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
