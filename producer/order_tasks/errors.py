"""Errors raised around a call. Errors of Cloud Tasks itself are `google.api_core.exceptions.GoogleAPIError`.

OrderTasksError
├── ConfigError           the configuration is missing or invalid; nothing was sent
├── InvalidOrderError     the order cannot become a task; nothing was sent
└── IncompleteOrderError  some tasks of an order were not created; repeat the call
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.cloud.tasks_v2 import Task


class OrderTasksError(Exception):
    """Base class of this package's errors."""


class ConfigError(OrderTasksError):
    """The configuration is missing or invalid. The text has one line for each problem, with its remedy."""


class InvalidOrderError(OrderTasksError, ValueError):
    """The order cannot become a task, or its task's name would not be unique."""


class IncompleteOrderError(OrderTasksError):
    """Some tasks of an order were not created. Repeating the call is safe: it creates the missing ones."""

    tasks: Mapping[str, "Task | None"]
    """The actions that succeeded, as `process_new_order` returns them."""
    failures: Mapping[str, Exception]
    """The error of each other action; `__cause__` groups the same errors."""

    def __init__(
        self, order_id: str | None, tasks: Mapping[str, "Task | None"], failures: Mapping[str, Exception]
    ) -> None:
        reasons = "; ".join(f"{action}: {error}" for action, error in failures.items())
        super().__init__(f"order {order_id!r}: {len(failures)} of {len(tasks) + len(failures)} tasks failed: {reasons}")
        self.tasks = tasks
        self.failures = failures
        self.__cause__ = ExceptionGroup("failed tasks", list(failures.values()))
