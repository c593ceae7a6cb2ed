"""The mail server, the warehouse and the database that the handler's effects reach on this machine.

The database is SQLite in the state folder, unless a URL names another one.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from local.faults import Faults
from local.journal import Journal
from local.sinks.mail_server import MailServer
from local.sinks.shop import Shop
from local.sinks.warehouse import Warehouse

PLACEHOLDERS = {
    "databaseUrl": "postgresql://local/orders",
    "smtpUrl": "smtp://local?from=orders@shop.example",
    "warehouseUrl": "http://local",
    "warehouseSecret": "the-local-warehouse",
}
"""Secrets for the evaluation of the program. The handler gets the real addresses."""


class Effects:
    """The mail server, the warehouse and the database."""

    def __init__(self, folder: Path, faults: Faults, database_url: str = "") -> None:
        """`folder`: the state folder. `database_url`: a PostgreSQL to use instead of SQLite."""
        self.mail_server = MailServer(Journal(folder / "mails.jsonl"), faults)
        self.warehouse = Warehouse(Journal(folder / "notifications.jsonl"), faults)
        self.database_file = None if database_url else _database_file(folder.resolve())
        self.database_url = database_url or f"sqlite:///{self.database_file}"
        self.shop = Shop(self.database_url)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[dict[str, str]]:
        """Listens on free ports, and yields the environment variables that point a handler here."""
        async with self.mail_server.serving() as smtp_url, self.warehouse.serving() as warehouse_url:
            yield {
                "DATABASE_URL": self.database_url,
                "SMTP_URL": smtp_url,
                "WAREHOUSE_URL": warehouse_url,
                "WAREHOUSE_SECRET": self.warehouse.secret,
            }

    def done(self) -> dict[str, int]:
        """Returns the number of effects of each action. Repetitions under the same id count once."""
        return {
            "send_confirmation": len({mail["id"] for mail in self.mail_server.mails.entries()}),
            "update_inventory": sum(self.shop.sold()),
            "notify_warehouse": len({entry["id"] for entry in self.warehouse.notifications.entries()}),
        }


def _database_file(state: Path) -> Path:
    """SQLite's file, in a folder of its own: a container may see that folder and nothing else of the state."""
    folder = state / "database"
    folder.mkdir(mode=0o700, exist_ok=True)
    for file in state.glob("orders.sqlite*"):  # where an earlier version kept it
        file.rename(folder / file.name)
    return folder / "orders.sqlite"
