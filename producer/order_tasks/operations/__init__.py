"""What operators see and do: the model behind the commands and the console.

with Operations(config, database_url) as operations:
    print(operations.situation().headline)
"""

from order_tasks.operations.command import command
from order_tasks.operations.entry import Entry
from order_tasks.operations.operations import Cancelled, Operations, to_json
from order_tasks.operations.queues import NotPausedError
from order_tasks.operations.replay import Replayed
from order_tasks.operations.selection import Selection
from order_tasks.operations.situation import DeadLetters, Failures, QueueState, Situation
from order_tasks.operations.story import Story

__all__ = [
    "Cancelled",
    "DeadLetters",
    "Entry",
    "Failures",
    "NotPausedError",
    "Operations",
    "QueueState",
    "Replayed",
    "Selection",
    "Situation",
    "Story",
    "command",
    "to_json",
]
