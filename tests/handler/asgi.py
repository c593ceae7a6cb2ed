"""Requests to the application in this process, and what it answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from order_handler.app import App
from starlette.types import Message

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
        self._app = app

    async def order(
        self,
        headers: Mapping[str, str] = DIRECT,
        order_id: str = "ORD-1",
        action: str = "send_confirmation",
        email: str = "ada@example.com",
    ) -> Answer:
        return await self.post(headers, message(order_id, action, email))

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        return await self.send("POST", "/process-order", headers, [body])

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] = DIRECT,
        chunks: Sequence[bytes] = (b"",),
        whole: bool = True,
    ) -> Answer:
        """One request; unless `whole`, the caller leaves after the chunks."""
        events: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        if whole:
            events[-1]["more_body"] = False
        sent: list[Message] = []

        async def receive() -> Message:
            return events.pop(0) if events else {"type": "http.disconnect"}

        async def collect(message: Message) -> None:
            sent.append(message)

        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw}
        await self._app(scope, receive, collect)
        start, content = sent
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], answered, content["body"])
