"""The published contract: the messages of all actions, what each needs from the environment, and the database.

`python -m order_handler.contract` prints contract.json. The program's settings and the producer read that file.
"""

import json
from dataclasses import asdict
from typing import Any

import msgspec

from order_handler.action import AnyMessage
from order_handler.actions import ACTIONS
from order_handler.environment import DATABASE


def contract() -> dict[str, Any]:
    return {
        name: {
            "message": _schema(action.message),
            "needs": [asdict(need) for need in action.needs],
            "maxAttempts": action.max_attempts,
        }
        for name, action in ACTIONS.items()
    }


def _schema(message: type[AnyMessage]) -> dict[str, Any]:
    schema = msgspec.json.schema(message)
    definitions = schema["$defs"]
    top = definitions.pop(schema["$ref"].rpartition("/")[2])
    return {**top, "$defs": definitions} if definitions else top


def text() -> str:
    return json.dumps({"actions": contract(), "database": asdict(DATABASE)}, indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")  # noqa: T201 - this is its output
