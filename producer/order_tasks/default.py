"""The functions that a web app imports. They share one client, built from the environment at the first call.

The environment is not read at import, so that a web app's tests can import this module without a queue.
"""

import asyncio
import os
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Unpack

from google.cloud.tasks_v2 import Task

from order_tasks.client import AsyncOrderTasks, OrderTasks
from order_tasks.config import Config
from order_tasks.message import TaskOptions

_lock = threading.RLock()
_client: OrderTasks | None = None
_async_clients: dict[asyncio.AbstractEventLoop, AsyncOrderTasks] = {}


def create_order_task(order_id: str, action: str, customer_email: str) -> Task | None:
    """Create the task that runs one action of an order.

    Call it after the order is committed. When it returns, the task is stored. Transient errors are retried for 30 s (at
    most 40 s with the last attempt). Order and action determine the task's name, so a retry cannot create another task.

    Returns the task. Returns None if a task of that name exists, or existed within the last day; then nothing is
    created or changed. A retry after a lost answer returns None too.

    Raises ConfigError or InvalidOrderError before any call, and `google.api_core.exceptions.GoogleAPIError` if Cloud
    Tasks refuses the task or does not answer.
    """
    return _default().create_order_task(order_id, action, customer_email)


def create_task(
    action: str,
    fields: Mapping[str, Any],
    *,
    key: str | None = None,
    at: datetime | None = None,
    delay: timedelta | float | None = None,
) -> Task | None:
    """Create a task of any action with the fields of its message, such as `{"orderId": "ORD-1", "amount": 1999}`.

    Order, action and `key` determine the task's name: pass a key of 1 to 64 letters, digits, dots, underscores and
    hyphens to create several tasks of one order and action, such as a second refund. Without an order and a key, each
    call creates a task of its own. `at` or `delay` (a timedelta or seconds): when to run it, at most 30 days ahead.

    The fields are checked against the handler's contract. Returns and raises what `create_order_task` does.
    """
    return _default().create_task(action, fields, key=key, at=at, delay=delay)


def process_new_order(order_id: str, email: str) -> Mapping[str, Task | None]:
    """Create a new order's three tasks concurrently: send_confirmation, update_inventory, notify_warehouse.

    Call it after the order is committed. When it returns, the tasks are stored. Calling it again is safe.

    Returns action -> its task, or None if the task already existed (see `create_order_task`). Raises ConfigError or
    InvalidOrderError before any call. Raises IncompleteOrderError after all three calls have ended, with the actions
    that failed.
    """
    return _default().process_new_order(order_id, email)


async def create_order_task_async(order_id: str, action: str, customer_email: str) -> Task | None:
    """`create_order_task` for asyncio."""
    return await _async_default().create_order_task(order_id, action, customer_email)


async def create_task_async(action: str, fields: Mapping[str, Any], **options: Unpack[TaskOptions]) -> Task | None:
    """`create_task` for asyncio."""
    return await _async_default().create_task(action, fields, **options)


async def process_new_order_async(order_id: str, email: str) -> Mapping[str, Task | None]:
    """`process_new_order` for asyncio."""
    return await _async_default().process_new_order(order_id, email)


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


# A fork waits until another thread has created the client. Otherwise the child would wait for that thread for ever.
os.register_at_fork(before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_renew_lock)


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
            # A channel works only in its own loop. A second `asyncio.run` needs a new one.
            for ended in [known for known in _async_clients if known.is_closed()]:
                del _async_clients[ended]
            _async_clients[loop] = AsyncOrderTasks(Config.from_environment())
        return _async_clients[loop]
