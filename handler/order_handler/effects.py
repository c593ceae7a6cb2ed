"""The effects that an action can have. An effect that is None is simulated.

Imports a library only if its effect is configured: the others would cost every cold start time and memory.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from order_handler.environment import Environment

if TYPE_CHECKING:
    from order_handler.database import Database


class Mail(Protocol):
    async def confirm(self, order_id: str, action: str, address: str) -> None: ...


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

    @classmethod
    def configured(cls, environment: Environment) -> Self:
        """ValueError if DATABASE_URL is malformed."""
        if environment.database_url is None:
            return cls()
        from order_handler.database import Database
        from order_handler.ledger import Ledger
        from order_handler.stock import Stock

        database = Database(environment.database_url, environment.database_pool)
        ledger = Ledger(database, timeout=environment.timeout)
        mail = warehouse = None
        if environment.mail:
            from order_handler.mail import Mail

            mail = Mail(environment.mail, ledger)
        if environment.warehouse:
            from order_handler.warehouse import Warehouse

            warehouse = Warehouse(environment.warehouse, ledger)
        return cls(database, mail, Stock(database), warehouse)

    async def prepare(self) -> None:
        """Does what the first order would otherwise wait for."""
        if self.database:
            await self.database.prepare()

    async def close(self) -> None:
        if self.warehouse:
            await self.warehouse.close()
        if self.database:
            self.database.close()
