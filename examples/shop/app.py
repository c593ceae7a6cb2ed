"""The web app of the diagram: takes orders over HTTP and leaves the work on them to tasks.

It shares the database with the handler, which creates the tables. Run it with DATABASE_URL and the variables of
`order_tasks.Config`:

    uvicorn --app-dir examples/shop --factory app:create
    curl localhost:8000/orders -d '{"customerEmail": "ada@example.com"}'
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response
from order_tasks import NEW_ORDER_ACTIONS, Config, InvalidOrderError, OrderTasks, outbox, traceparent
from order_tasks.operations import open_database
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from sqlalchemy import Connection, text

Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Status = Literal["accepted", "sent", "done", "cancelled"]


class Line(BaseModel):
    item: Text
    quantity: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class NewOrder(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    customer_email: Annotated[str, Field(min_length=1, max_length=320, pattern=r"^[^\s@\x00]+@[^\s@\x00]+$")]
    order_id: Text = Field(default_factory=lambda: f"ORD-{uuid.uuid4()}")
    lines: Annotated[list[Line], Field(min_length=1, max_length=100)] = [Line(item="notebook")]
    due: AwareDatetime | None = None
    """When its tasks are to be delivered. None: at once."""


class Order(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    order_id: str
    status: Status
    """accepted: committed; sent: every task is created; done: every task has had its effect; or cancelled."""


async def new_order(request: Request) -> NewOrder:
    """The order in the body, whatever content type it says: `curl -d` says that it is a form."""
    traceparent.set(request.headers.get("traceparent"))  # the order's tasks carry it
    try:
        return NewOrder.model_validate_json(await request.body())
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise HTTPException(422, details) from error


def create() -> FastAPI:
    database = open_database(os.environ["DATABASE_URL"])
    engine = database.engine
    tasks = OrderTasks(Config.from_environment())

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        tasks.close()
        engine.dispose()

    app = FastAPI(title="Shop", lifespan=closing)

    @app.post("/orders", status_code=201)
    def place(order: Annotated[NewOrder, Depends(new_order)], response: Response, background: BackgroundTasks) -> Order:
        """Commit the order, its lines and its tasks together. An order that exists already stays as it is: 200."""
        with engine.begin() as connection:
            if not insert(connection, order):
                response.status_code = 200
                return Order(order_id=order.order_id, status=status(connection, order.order_id))
            try:
                rows = outbox.add(connection, order.order_id, order.customer_email, due=order.due)
            except InvalidOrderError as error:
                raise HTTPException(422, str(error)) from error
        # After the commit and after the answer. If this process dies first, the relay sends the rows.
        background.add_task(tasks.publish, rows)
        return Order(order_id=order.order_id, status="accepted")

    @app.get("/orders/{order_id}")
    def show(order_id: str) -> Order:
        """What became of an order."""
        with engine.connect() as connection:
            return Order(order_id=order_id, status=status(connection, order_id))

    @app.delete("/orders/{order_id}")
    def cancel(order_id: str) -> Order:
        """Prevent the effects that have not begun. Tasks that are out already find them cancelled and do nothing."""
        show(order_id)
        database.cancel(order_id, NEW_ORDER_ACTIONS)
        return show(order_id)

    return app


INSERT_ORDER = text("INSERT INTO orders (order_id) VALUES (:order) ON CONFLICT DO NOTHING")
INSERT_LINE = text("INSERT INTO order_lines (order_id, item, quantity) VALUES (:order, :item, :quantity)")
EXISTS = text("SELECT 1 FROM orders WHERE order_id = :order")
ENDED = text("SELECT action, token FROM effects WHERE order_id = :order AND done_at IS NOT NULL")
WAITING = text("SELECT 1 FROM outbox WHERE task_id LIKE :tasks LIMIT 1")


def insert(connection: Connection, order: NewOrder) -> bool:
    """Insert order and lines. False if the order exists."""
    if not connection.execute(INSERT_ORDER, {"order": order.order_id}).rowcount:
        return False
    pieces: dict[str, int] = {}
    for line in order.lines:
        pieces[line.item] = pieces.get(line.item, 0) + line.quantity
    lines = [{"order": order.order_id, "item": item, "quantity": quantity} for item, quantity in pieces.items()]
    connection.execute(INSERT_LINE, lines)
    return True


def status(connection: Connection, order_id: str) -> Status:
    """The order's status. Raises 404 if there is no such order."""
    # One after the other, in this order: a task that is sent and done in between is then seen as done, not as lost.
    if not connection.execute(EXISTS, {"order": order_id}).first():
        raise HTTPException(404, f"No order {order_id}")
    waiting = any(
        connection.execute(WAITING, {"tasks": outbox.task_prefix(order_id, action) + "%"}).first()
        for action in NEW_ORDER_ACTIONS
    )
    ended = {row.action: row.token for row in connection.execute(ENDED, {"order": order_id})}
    if "cancelled" in ended.values():
        return "cancelled"
    if ended.keys() >= set(NEW_ORDER_ACTIONS):
        return "done"
    return "accepted" if waiting else "sent"
