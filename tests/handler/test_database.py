"""Missing tables, timeouts, and a database that goes away."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from order_handler import database as module
from order_handler.actions.update_inventory import Stock
from order_handler.database import CONNECTIONS, Database
from order_handler.effects import Effects
from order_handler.errors import TransientError
from order_handler.tables import metadata, now, order_lines, orders, stock
from sqlalchemy import Connection, event, insert, make_url, select, text
from sqlalchemy.exc import IntegrityError

from tests.handler.calls import DELIVERED, Handler
from tests.handler.conftest import PATIENCE, Lines


async def test_a_commit_that_fails_on_sqlite_leaves_no_transaction_open(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/shop.sqlite")
    event.listen(database._engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    reference = "parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED"
    await database.run(lambda connection: connection.exec_driver_sql("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
    await database.run(lambda connection: connection.exec_driver_sql(f"CREATE TABLE children ({reference})"))
    with pytest.raises(IntegrityError):  # the key is checked by the COMMIT
        await database.run(lambda connection: connection.exec_driver_sql("INSERT INTO children VALUES (1)"))
    assert await database.run(lambda connection: connection.scalar(text("SELECT count(*) FROM children"))) == 0
    database.close()


class Relay:
    """Stands before a server. Can be away, or take everything in and say nothing."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.silent = False

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, to_writer}
        await asyncio.gather(self._pump(reader, to_writer), self._pump(to_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                if not self.silent:
                    writer.write(chunk)
        writer.close()


@pytest.fixture
async def relay(postgresql_url: str) -> AsyncIterator[Relay]:
    """Away at first; its port is known."""
    url = make_url(postgresql_url)
    assert url.host is not None
    assert url.port is not None
    found = Relay(url.host, url.port)
    await found.open()
    await found.close()
    yield found
    await found.close()


def known(connection: Connection) -> None:
    connection.execute(insert(stock).values(item="cup", quantity=5))
    for order_id in ("ORD-1", "ORD-2"):
        connection.execute(insert(orders).values(order_id=order_id))
        connection.execute(insert(order_lines).values(order_id=order_id, item="cup", quantity=1))


def test_ten_processes_that_start_at_once_create_the_tables_once(url: str) -> None:
    command = [sys.executable, "-m", "order_handler.schema"]
    environment = {**os.environ, "DATABASE_URL": url}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(10)
    ]
    assert [(process.communicate(timeout=60)[0], process.returncode) for process in started] == [("", 0)] * 10
    database = Database(url)
    database.create_missing()
    database.close()


def test_tables_that_exist_keep_what_they_hold(database: Database) -> None:
    database.create_missing()
    with database._engine.begin() as connection:
        known(connection)
    database.create_missing()
    with database._engine.begin() as connection:
        assert connection.scalar(select(stock.c.quantity)) == 5


async def test_a_user_who_may_create_nothing_works_with_tables_that_an_operator_created(
    postgresql_url: str,
) -> None:
    database = Database(postgresql_url)
    database.create_missing()
    tables = ", ".join(metadata.tables)
    with database._engine.begin() as connection:
        connection.execute(text("CREATE ROLE guest LOGIN"))
        connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO guest"))
    guest = Database(postgresql_url.replace("shop@", "guest@"))
    await guest.run(known)
    guest.close()
    database.close()


async def test_a_database_that_is_down_at_the_start_delays_orders_and_their_tables(
    handler_with: Callable[[Effects], Handler],
    relay: Relay,
    postgresql_url: str,
    lines: Lines,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # With a password, so that a leak would show.
    url = make_url(postgresql_url).set(port=relay.port, password="geheim")
    database = Database(url.render_as_string(hide_password=False))
    effects = Effects({"update_inventory": Stock(database)}, database)
    handler = handler_with(effects)
    await effects.prepare()
    answer = await handler.order(DELIVERED, action="update_inventory")
    assert (answer.status, answer.json) == (500, {"error": "Internal error"})
    [start], [failed] = caplog.records, lines()
    assert (start.levelname, failed["severity"]) == ("WARNING", "WARNING")
    assert "Connection refused" in start.message
    assert "Connection refused" in failed["message"]
    assert "stack_trace" not in failed
    assert "geheim" not in f"{caplog.text}{failed}"
    await relay.open()
    await database.run(known)
    assert (await handler.order(DELIVERED, action="update_inventory")).status == 200
    await effects.close()


async def test_a_database_that_goes_away_in_the_middle_delays_orders_and_loses_none(
    handler_with: Callable[[Effects], Handler], relay: Relay, postgresql_url: str
) -> None:
    await relay.open()
    database = Database(make_url(postgresql_url).set(port=relay.port).render_as_string())
    handler = handler_with(Effects({"update_inventory": Stock(database)}, database))
    await database.run(known)
    assert (await handler.order(DELIVERED, action="update_inventory")).status == 200
    await relay.close()
    assert (await handler.order(DELIVERED, "ORD-2", "update_inventory")).status == 500
    await relay.open()
    answer = await handler.order(DELIVERED, "ORD-2", "update_inventory")
    assert answer.json == {"status": "processed", "orderId": "ORD-2"}
    assert await database.run(lambda connection: connection.scalar(select(stock.c.quantity))) == 3
    database.close()


async def test_a_connection_that_died_while_idle_fails_no_order(postgresql_url: str) -> None:
    database, other = Database(postgresql_url, connections=1), Database(postgresql_url)
    await database.run(known)
    kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    await other.run(lambda connection: connection.execute(text(f"{kill} AND application_name = 'order-handler'")))
    assert await database.run(lambda connection: connection.scalar(select(stock.c.quantity))) == 5
    database.close()
    other.close()


async def test_a_connection_that_dies_in_use_is_transient(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    with pytest.raises(TransientError, match="terminating connection"):
        await database.run(lambda connection: connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())")))
    await database.run(known)
    database.close()


@pytest.fixture
async def relayed(relay: Relay, postgresql_url: str) -> AsyncIterator[Database]:
    """A database behind the relay."""
    await relay.open()
    database = Database(make_url(postgresql_url).set(port=relay.port).render_as_string(), connections=2)
    await database.run(known)
    yield database
    database.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - threads change it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_server_that_falls_silent_costs_one_call_its_limit_and_no_thread(
    relayed: Database, relay: Relay, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.silent = True
    monkeypatch.setattr(module, "CALL_SECONDS", PATIENCE if cancelled else 0.3)
    calls = [asyncio.create_task(relayed.fetch("SELECT 1", {})) for _ in range(2)]
    if cancelled:
        await until(lambda: len(relayed._calls) == 2)
        for call in calls:
            call.cancel()
    for call in calls:
        with pytest.raises(asyncio.CancelledError if cancelled else TransientError):
            await call
    await until(lambda: not relayed._calls)
    relay.silent = False
    monkeypatch.setattr(module, "CALL_SECONDS", PATIENCE)
    assert await relayed.fetch("SELECT 1", {}) == (1,)


async def test_a_server_that_falls_silent_does_not_delay_the_end(relayed: Database, relay: Relay) -> None:
    relay.silent = True
    calls = [asyncio.create_task(relayed.fetch("SELECT 1", {})) for _ in range(3)]
    await until(lambda: len(relayed._calls) == 2)
    relayed.close()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: not relayed._calls)


async def test_an_instance_whose_threads_are_all_lost_says_so_until_one_comes_back(
    handler_with: Callable[[Effects], Handler], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, go_on = handler_with(Effects(database=database)), threading.Event()
    monkeypatch.setattr(module, "_STUCK_SECONDS", 0)
    begun: list[int] = []

    def lose(_: Connection) -> None:
        begun.append(1)
        go_on.wait(PATIENCE)

    lost = [asyncio.create_task(database.run(lose)) for _ in range(1 if database.dialect == "sqlite" else CONNECTIONS)]
    await until(lambda: len(begun) == len(lost))
    assert (await handler.send("GET", "/")).status == 200
    for call in lost:
        call.cancel()
    await asyncio.gather(*lost, return_exceptions=True)
    assert (await handler.send("GET", "/")).status == 503
    go_on.set()
    await until(lambda: not database._calls)
    assert (await handler.send("GET", "/")).status == 200


async def test_sqlites_clock_and_the_executor_can_be_replaced(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        database = Database(f"sqlite:///{tmp_path / 'shop.db'}", executor=executor, now=lambda: 4.5)
        assert await database.run(lambda connection: connection.scalar(select(now()))) == 4.5
        assert await database.fetch("SELECT epoch_now()", {}) == (4.5,)
        database.close()


async def test_a_lock_that_is_not_given_ends_as_transient(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Database(url)
    monkeypatch.setattr(module, "_STATEMENT_SECONDS", 0.2)
    second = Database(url)
    await first.run(known)
    await second.prepare()
    loop = asyncio.get_running_loop()
    taken, over = asyncio.Event(), asyncio.Event()

    def hold(connection: Connection) -> None:
        connection.execute(stock.update().values(quantity=1))
        loop.call_soon_threadsafe(taken.set)
        asyncio.run_coroutine_threadsafe(over.wait(), loop).result()

    holding = asyncio.create_task(first.run(hold))
    await taken.wait()
    with pytest.raises(TransientError, match=r"statement timeout|database is locked"):
        await second.run(lambda connection: connection.execute(stock.update().values(quantity=2)))
    over.set()
    await holding
    first.close()
    second.close()


async def test_an_operators_own_options_win(postgresql_url: str) -> None:
    database = Database(f"{postgresql_url}?options=-c%20statement_timeout%3D7s")
    shown = await database.run(lambda connection: connection.scalar(text("SHOW statement_timeout")))
    idle = await database.run(lambda connection: connection.scalar(text("SHOW idle_in_transaction_session_timeout")))
    database.close()
    assert (shown, idle) == ("7s", "5s")


@pytest.mark.parametrize("url", ["postgresql://shop:geheim@host:port/shop", "geheim"])
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="DATABASE_URL") as refusal:
        Database(url)
    assert "geheim" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "DATABASE_URL is not set"),
        ("mysql://shop:geheim@localhost/shop", "DATABASE_URL is malformed"),
        ("postgresql://shop:geheim@127.0.0.1:1/shop", "The database refused: "),
        ("sqlite:////no/such/folder/shop.db", "unable to open database file"),
    ],
)
def test_the_schema_command_ends_with_the_reason(url: str | None, reason: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    ended = subprocess.run(
        [sys.executable, "-m", "order_handler.schema"],
        env=environment | ({"DATABASE_URL": url} if url else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "geheim" not in ended.stderr
