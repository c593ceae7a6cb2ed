"""The functions a web app imports and calls: they use one client, built from the environment at the first call.

Refuses to read the environment at import: a web app's tests import it without a queue.
"""

import asyncio
import threading
from collections.abc import Mapping

from google.cloud.tasks_v2 import Task

from order_tasks.client import AsyncOrderTasks, OrderTasks
from order_tasks.config import Config

_lock = threading.Lock()
_client: OrderTasks | None = None
_async_clients: dict[asyncio.AbstractEventLoop, AsyncOrderTasks] = {}


def create_order_task(order_id: str, action: str, customer_email: str) -> Task | None:
    """Create the task that runs one action of an order.

    Call it after the order is committed: the promise starts when it returns. Transient errors are retried for 30 s (at
    most 40 s with the last attempt); order and action fix the task's name, so a retry cannot create a second one.

    Returns the task, or None: a task of that name exists or existed within a day, and nothing was created or changed.
    None also follows a lost answer, when the first attempt had created the task. Either way the task is, or was, there.

    Raises ConfigError and InvalidOrderError before any call (empty order id or action, a value that is not text, a
    message over 1000 KiB), and `google.api_core.exceptions.GoogleAPIError` when Cloud Tasks refuses or stays away.
    """
    return _default().create_order_task(order_id, action, customer_email)


def process_new_order(order_id: str, email: str) -> Mapping[str, Task | None]:
    """Create a new order's tasks, concurrently: send_confirmation, update_inventory, notify_warehouse.

    Call it after the order is committed: the promise starts when it returns. Calling it again is safe.

    Returns action -> its task, or None where it was already there (see `create_order_task`). Raises
    IncompleteOrderError naming the actions that failed, after all three calls have ended; ConfigError and
    InvalidOrderError before any.
    """
    return _default().process_new_order(order_id, email)


async def create_order_task_async(order_id: str, action: str, customer_email: str) -> Task | None:
    """`create_order_task` for asyncio."""
    return await _async_default().create_order_task(order_id, action, customer_email)


async def process_new_order_async(order_id: str, email: str) -> Mapping[str, Task | None]:
    """`process_new_order` for asyncio."""
    return await _async_default().process_new_order(order_id, email)


def _default() -> OrderTasks:
    global _client
    with _lock:
        if _client is None:
            _client = OrderTasks(Config.from_environment())
        return _client


def _async_default() -> AsyncOrderTasks:
    loop = asyncio.get_running_loop()
    with _lock:
        if loop not in _async_clients:
            # A channel dies with its loop: `asyncio.run` twice must not find the first one's.
            for ended in [known for known in _async_clients if known.is_closed()]:
                del _async_clients[ended]
            _async_clients[loop] = AsyncOrderTasks(Config.from_environment())
        return _async_clients[loop]
