"""The effects that an action can have. An effect that is None is simulated.

Imports a library only if its effect is configured: the others would cost every cold start time and memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from order_handler.action import Opening
from order_handler.actions import ACTIONS
from order_handler.environment import Environment

if TYPE_CHECKING:
    from order_handler.database import Database


class Mail(Protocol):
    async def confirm(self, order_id: str, action: str, address: str, *, plain: bool = False) -> None: ...


class Stock(Protocol):
    async def take(self, order_id: str, action: str) -> None: ...


class Warehouse(Protocol):
    async def notify(self, order_id: str, action: str) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Effects:
    database: "Database | None" = None
    mail: Mail | None = None
    stock: Stock | None = None
    warehouse: Warehouse | None = None
    others: Mapping[str, Any] = field(default_factory=dict)
    """By action."""

    @classmethod
    def configured(cls, environment: Environment) -> Self:
        """ValueError if DATABASE_URL is malformed."""
        if environment.database_url is None:
            return cls()
        from order_handler.database import Database
        from order_handler.ledger import Ledger

        database = Database(environment.database_url, environment.database_pool)
        opening = Opening(environment.values, database, Ledger(database, timeout=environment.timeout))
        others = {
            name: action.open(opening)
            for name, action in ACTIONS.items()
            if all(need.variable in environment.values for need in action.needs)
        }
        mail, stock = others.pop("send_confirmation", None), others.pop("update_inventory", None)
        return cls(database, mail, stock, others.pop("notify_warehouse", None), others)

    def of(self, action: str) -> Any:  # noqa: ANN401 - each action knows its own
        """The effect of this action; None if it is simulated."""
        shop = {"send_confirmation": self.mail, "update_inventory": self.stock, "notify_warehouse": self.warehouse}
        return shop[action] if action in shop else self.others.get(action)

    async def prepare(self) -> None:
        """Does what the first order would otherwise wait for."""
        if self.database:
            await self.database.prepare()

    async def close(self) -> None:
        for effect in (self.warehouse, *self.others.values()):
            if hasattr(effect, "close"):
                await effect.close()
        if self.database:
            self.database.close()
