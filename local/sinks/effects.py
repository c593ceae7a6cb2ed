"""The mail server, the web services and the database that the handler's effects reach on this machine.

The database is SQLite in the state folder, unless a URL names another one.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from local.faults import Faults
from local.journal import Journal
from local.sinks.mail_server import MailServer
from local.sinks.shop import Shop
from local.sinks.web_services import SIGNED, WebServices

WEB_SERVICES = "http://local/"
"""What stands for the address of the web services while the program is evaluated; a variable's name follows."""
PLACEHOLDERS = {
    "databaseUrl": "postgresql://localhost/orders",
    "smtpUrl": "smtp://local?from=orders@shop.example",
    "warehouseUrl": f"{WEB_SERVICES}WAREHOUSE_URL",
    "warehouseSecret": "the-local-warehouse",
}
"""Secrets for the evaluation of the program. The handler gets the real values."""
_SHOP = {"notify_warehouse": (SIGNED,)}


class Effects:
    """The mail server, the web services and the database."""

    def __init__(self, folder: Path, faults: Faults, database_url: str = "") -> None:
        """`folder`: the state folder. `database_url`: a PostgreSQL to use instead of SQLite."""
        self.mail_server = MailServer(Journal(folder / "mails.jsonl"), faults)
        self.web_services = WebServices(Journal(folder / "calls.jsonl"), faults)
        self.database_file = None if database_url else _database_file(folder.resolve())
        self.database_url = database_url or f"sqlite:///{self.database_file}"
        self.shop = Shop(self.database_url)
        self._served = {SIGNED}
        """Variables that contain the URL of a web service here."""

    @contextlib.asynccontextmanager
    async def serving(self, environment: Mapping[str, str]) -> AsyncIterator[dict[str, str]]:
        """Listens on free ports, and yields the environment with real values in the place of placeholders."""
        async with self.mail_server.serving() as smtp_url, self.web_services.serving() as web_services:
            real = {
                PLACEHOLDERS["databaseUrl"]: self.database_url,
                PLACEHOLDERS["smtpUrl"]: smtp_url,
                PLACEHOLDERS["warehouseSecret"]: self.web_services.warehouse_secret,
            }
            self._served = {name for name, value in environment.items() if value.startswith(WEB_SERVICES)}
            yield {
                name: f"{web_services}{value.removeprefix(WEB_SERVICES)}"
                if name in self._served
                else real.get(value, value)
                for name, value in environment.items()
            }

    def done(self, needs: Mapping[str, Sequence[str]] = _SHOP, has_tables: bool = True) -> dict[str, int]:
        """Returns the number of effects of each action whose effects arrive here. Repetitions under one id count once.

        `needs`: the variables that each action reads. `has_tables`: whether the handler has made its tables."""
        done = {
            action: sum(len({call["id"] for call in self.web_services.calls(name)}) for name in self._served & {*names})
            for action, names in needs.items()
            if not self._served.isdisjoint(names)
        }
        done["send_confirmation"] = len({mail["id"] for mail in self.mail_server.mails.entries()})
        if has_tables:
            done["update_inventory"] = sum(self.shop.sold())
        return done


def _database_file(state: Path) -> Path:
    """SQLite's file, in a folder of its own: a container may see that folder and nothing else of the state."""
    folder = state / "database"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / "orders.sqlite"
