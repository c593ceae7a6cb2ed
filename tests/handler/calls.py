"""Requests to the application in this process, and what it answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from order_handler.app import App

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
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return json.loads(self.body)


def message(order_id: str = "ORD-1", action: str = "send_confirmation", email: str = "ada@example.com") -> bytes:
    content = {"orderId": order_id, "action": action, "customerEmail": email}
    return json.dumps(content, ensure_ascii=False).encode()


class Handler:
    """A handler with 5 attempts in project `shop`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def order(
        self,
        headers: Mapping[str, str] = DIRECT,
        order_id: str = "ORD-1",
        action: str = "send_confirmation",
        email: str = "ada@example.com",
    ) -> Answer:
        return await self.post(headers, message(order_id, action, email))

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        return await self.send("POST", "/process-order", headers, body)

    async def send(self, method: str, path: str, headers: Mapping[str, str] = DIRECT, *parts: bytes) -> Answer:
        """The body arrives in these parts. A caller that sends none leaves before its body is complete."""
        named = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        incoming = [
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, 1)
        ]
        sent: list[Any] = []

        async def receive() -> Any:  # noqa: ANN401 - a message of ASGI
            return incoming.pop(0) if incoming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:  # noqa: ANN401 - a message of ASGI
            sent.append(message)

        await self.app({"type": "http", "method": method, "path": path, "headers": named}, receive, send)
        start, body = sent
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], answered, body["body"])
