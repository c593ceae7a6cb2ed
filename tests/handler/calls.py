"""Requests to the application in this process, and what it answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from order_handler.app import App
from order_handler.server import Request

DIRECT: dict[str, str] = {}
DELIVERED = {
    "X-CloudTasks-TaskName": "task-1",
    "X-CloudTasks-QueueName": "cloud-run-tasks",
    "X-CloudTasks-TaskRetryCount": "0",
}
LAST = {**DELIVERED, "X-CloudTasks-TaskRetryCount": "4"}
REPLAYED = {**DELIVERED, "X-CloudTasks-QueueName": "dead-letters", "X-CloudTasks-TaskRetryCount": "9"}


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    content_type: str
    allow: str | None

    @property
    def json(self) -> object:
        return json.loads(self.body)


def message(order_id: str = "ORD-1", action: str = "send_confirmation", email: str = "ada@example.com") -> bytes:
    content = {"orderId": order_id, "action": action, "customerEmail": email}
    return json.dumps(content, ensure_ascii=False).encode()


class Handler:
    """A handler with 5 attempts in project `shop`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def order(
        self,
        headers: Mapping[str, str] = DIRECT,
        order_id: str = "ORD-1",
        action: str = "send_confirmation",
        email: str = "ada@example.com",
    ) -> Answer:
        return await self.post(headers, message(order_id, action, email))

    async def post(self, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """The body is None if it was too large."""
        return await self.send("POST", "/process-order", headers, body)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] = DIRECT, body: bytes | None = b""
    ) -> Answer:
        named = {name.lower(): value for name, value in headers.items()}
        return Answer(*await self._app.respond(Request(method, path, named, body)))
