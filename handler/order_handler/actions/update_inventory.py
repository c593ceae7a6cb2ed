"""update_inventory: takes the order's lines out of the stock."""

from typing import TYPE_CHECKING

from order_handler.action import Action, Opening, OrderMessage
from order_handler.delivery import Delivery

if TYPE_CHECKING:
    from order_handler.stock import Stock


class UpdateInventory(OrderMessage, rename="camel", frozen=True, kw_only=True):
    pass


async def run(message: UpdateInventory, stock: "Stock | None", delivery: Delivery | None) -> str:
    if stock is None:
        return f"Stock for {message.order_id} updated (simulated)"
    await stock.take(message.order_id, message.effect)
    return f"Stock for {message.order_id} updated"


def open_stock(opening: Opening) -> "Stock":
    from order_handler.stock import Stock

    return Stock(opening.database)


ACTION = Action(UpdateInventory, run, open_stock)
