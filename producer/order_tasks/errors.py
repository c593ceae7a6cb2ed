"""What can go wrong around a call. What Cloud Tasks answers stays `google.api_core.exceptions.GoogleAPIError`.

OrderTasksError
├── ConfigError           where the tasks go is not known; nothing was sent
├── InvalidOrderError     the order can never become a task; nothing was sent
└── IncompleteOrderError  some of an order's tasks were not created; repeat the call
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.cloud.tasks_v2 import Task


class OrderTasksError(Exception):
    """Every error of this package."""


class ConfigError(OrderTasksError):
    """Missing or invalid configuration: one line a problem, each with its remedy."""


class InvalidOrderError(OrderTasksError, ValueError):
    """An order that Cloud Tasks would refuse, or whose name would not be its own."""


class IncompleteOrderError(OrderTasksError):
    """Some tasks of an order were not created. The same call again is safe: it creates what is missing."""

    tasks: Mapping[str, "Task | None"]
    """The actions that succeeded, as `process_new_order` returns them."""
    failures: Mapping[str, Exception]
    """Why each other action failed; `__cause__` groups the same errors."""

    def __init__(self, order_id: str, tasks: Mapping[str, "Task | None"], failures: Mapping[str, Exception]) -> None:
        reasons = "; ".join(f"{action}: {error}" for action, error in failures.items())
        super().__init__(f"order {order_id!r}: {len(failures)} of {len(tasks) + len(failures)} tasks failed: {reasons}")
        self.tasks = tasks
        self.failures = failures
        self.__cause__ = ExceptionGroup("the tasks that failed", list(failures.values()))
