"""Creates the tasks of an order in Google Cloud Tasks, each once, for the private order handler.

    from order_tasks import process_new_order
    process_new_order("ORD-1001", "ada@example.com")  # after the order is committed

Configured by ORDER_TASKS_QUEUE, ORDER_TASKS_SERVICE_URL and ORDER_TASKS_INVOKER_EMAIL, which are the stack's outputs
queue, service_url and invoker_email; CLOUD_TASKS_EMULATOR_HOST=host:port sends everything to a local cloud.
"""

from order_tasks.client import AsyncOrderTasks, OrderTasks, Outcome
from order_tasks.config import Config
from order_tasks.default import (
    create_order_task,
    create_order_task_async,
    process_new_order,
    process_new_order_async,
)
from order_tasks.errors import ConfigError, IncompleteOrderError, InvalidOrderError, OrderTasksError
from order_tasks.order import NEW_ORDER_ACTIONS, Order

__all__ = [
    "NEW_ORDER_ACTIONS",
    "AsyncOrderTasks",
    "Config",
    "ConfigError",
    "IncompleteOrderError",
    "InvalidOrderError",
    "Order",
    "OrderTasks",
    "OrderTasksError",
    "Outcome",
    "create_order_task",
    "create_order_task_async",
    "process_new_order",
    "process_new_order_async",
]
