"""The published contract: the messages of all actions, what each needs from the environment, and the database.

`python -m order_handler.contract` prints contract.json. The program's settings and the producer read that file.
"""

import json
from dataclasses import asdict
from typing import Any

from order_handler import orders
from order_handler.actions import ACTIONS
from order_handler.environment import DATABASE


def contract() -> dict[str, Any]:
    return {
        name: {
            "message": orders.schema(name),
            "needs": [asdict(need) for need in action.needs],
            "maxAttempts": action.max_attempts,
        }
        for name, action in ACTIONS.items()
    }


def text() -> str:
    return json.dumps({"actions": contract(), "database": asdict(DATABASE)}, indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")  # noqa: T201 - this is its output
