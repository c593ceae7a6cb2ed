"""`python -m order_tasks`: the command line."""

import sys

from order_tasks.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
