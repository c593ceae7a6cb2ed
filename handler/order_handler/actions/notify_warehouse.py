"""notify_warehouse: tells the warehouse of the order, with one signed POST."""

from typing import TYPE_CHECKING

from order_handler.action import Action, Opening, OrderMessage, http_url, secret_key
from order_handler.delivery import Delivery

if TYPE_CHECKING:
    from order_handler.warehouse import Warehouse


class NotifyWarehouse(OrderMessage, rename="camel", frozen=True, kw_only=True):
    pass


async def run(message: NotifyWarehouse, warehouse: "Warehouse | None", delivery: Delivery | None) -> str:
    if warehouse is None:
        return f"Warehouse notified of {message.order_id} (simulated)"
    await warehouse.notify(message.order_id, message.effect)
    return f"Warehouse notified of {message.order_id}"


def open_warehouse(opening: Opening) -> "Warehouse":
    from order_handler.environment import Webhook
    from order_handler.warehouse import Warehouse

    return Warehouse(Webhook(opening.values["WAREHOUSE_URL"], opening.values["WAREHOUSE_SECRET"]), opening.ledger)


ACTION = Action(
    NotifyWarehouse,
    run,
    open_warehouse,
    (
        http_url("WAREHOUSE_URL", "URL that the warehouse is notified at"),
        secret_key("WAREHOUSE_SECRET", "Key that signs the notifications"),
    ),
)
