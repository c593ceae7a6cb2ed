"""Sends orders to a web app instead of creating their tasks: what `send` does where ORDER_TASKS_SHOP_URL is set.

An order with an action of its own is not a new order, so its task is created directly.
"""

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from google.cloud.tasks_v2 import Task

from order_tasks.client import AsyncOrderTasks, Outcome, Sendable
from order_tasks.config import Config
from order_tasks.order import NEW_ORDER_ACTIONS

_TIMEOUT_SECONDS = 30
_Order = TypeVar("_Order", bound=Sendable)


class ShopOrderTasks(AsyncOrderTasks):
    """Like AsyncOrderTasks, but places new orders with the shop, which commits them and creates their tasks."""

    def __init__(self, config: Config, url: str) -> None:
        super().__init__(config)
        self._url = url.rstrip("/")

    async def _create_all(
        self, order: _Order, calls: asyncio.Semaphore, due: datetime | None = None
    ) -> Outcome[_Order]:
        actions = tuple(message.action for message in order.messages)
        if actions != NEW_ORDER_ACTIONS:
            return await super()._create_all(order, calls, due)
        async with calls:
            try:
                later = {"due": due.isoformat()} if due else {}
                placed = await asyncio.to_thread(self._place, {**order.messages[0].fields, **later})
            except OSError as error:
                return Outcome(order, {}, {"order": error})
        return Outcome(order, {action: Task() if placed else None for action in actions}, {})

    def _place(self, order: Mapping[str, Any]) -> bool:
        """Returns False if the order existed. Raises OSError with the shop's reason."""
        body = json.dumps(dict(order)).encode()
        request = urllib.request.Request(f"{self._url}/orders", body, {"Content-Type": "application/json"})
        try:
            # A proxy cannot reach a local shop.
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=_TIMEOUT_SECONDS
            ) as response:
                return bool(response.status == 201)
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(500).decode(errors="replace")
            raise OSError(f"the shop answered {error.code}: {reason}") from error
        except urllib.error.URLError as error:
            raise OSError(f"the shop at {self._url} does not answer: {error.reason}") from error


def client(config: Config, outputs: str | None) -> AsyncOrderTasks:
    """The client that sends new orders to ORDER_TASKS_SHOP_URL, if that is set and `--outputs` is not."""
    url = os.environ.get("ORDER_TASKS_SHOP_URL")
    return ShopOrderTasks(config, url) if url and outputs is None else AsyncOrderTasks(config)
