"""Creates the tasks of an order in Google Cloud Tasks, each exactly once.

    from order_tasks import process_new_order
    process_new_order("ORD-1001", "ada@example.com")  # after the order is committed

Set ORDER_TASKS_QUEUE to the stack's output `queue`. The queue knows the handler's address and signs the deliveries. A
queue without them needs ORDER_TASKS_SERVICE_URL and ORDER_TASKS_INVOKER_EMAIL, the outputs `service_url` and
`invoker_email`. Set CLOUD_TASKS_EMULATOR_HOST=host:port to send the tasks to a local cloud instead of Google.
"""

from order_tasks.client import AsyncOrderTasks, OrderTasks, Outcome
from order_tasks.config import Config
from order_tasks.default import (
    create_order_task,
    create_order_task_async,
    create_task,
    create_task_async,
    process_new_order,
    process_new_order_async,
)
from order_tasks.errors import ConfigError, IncompleteOrderError, InvalidOrderError, OrderTasksError
from order_tasks.order import NEW_ORDER_ACTIONS, Order
from order_tasks.trace import traceparent

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
    "create_task",
    "create_task_async",
    "process_new_order",
    "process_new_order_async",
    "traceparent",
]
