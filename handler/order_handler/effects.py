"""The effects of the actions. An action without an effect simulates it.

Imports a library only if its effect is configured: the others would cost every cold start time and memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from order_handler.action import Opening
from order_handler.actions import ACTIONS
from order_handler.environment import Environment

if TYPE_CHECKING:
    from order_handler.database import Database


@dataclass(frozen=True, slots=True)
class Effects:
    by_action: Mapping[str, Any] = field(default_factory=dict)
    """What the `open` of each action returned. An action that is missing is simulated."""
    database: "Database | None" = None

    @classmethod
    def configured(cls, environment: Environment) -> Self:
        """ValueError if DATABASE_URL is malformed."""
        if environment.database_url is None:
            return cls()
        from order_handler.database import Database

        return cls.on(Database(environment.database_url, environment.database_pool), environment)

    @classmethod
    def on(cls, database: "Database", environment: Environment) -> Self:
        """The effects on this database."""
        from order_handler.ledger import Ledger

        opening = Opening(environment.values, database, Ledger(database, timeout=environment.timeout))
        by_action = {
            name: action.open(opening)
            for name, action in ACTIONS.items()
            if all(need.variable in environment.values for need in action.needs)
        }
        return cls(by_action, database)

    async def prepare(self) -> None:
        """Does what the first order would otherwise wait for."""
        if self.database:
            await self.database.prepare()

    async def close(self) -> None:
        for effect in self.by_action.values():
            if hasattr(effect, "close"):
                await effect.close()
        if self.database:
            self.database.close()
