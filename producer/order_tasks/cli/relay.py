"""`relay`: sends the outbox rows that the web app did not send itself.

The handler's own relay does this where it shares the web app's database. This command is for any other database, with
--every, and for rows that were refused.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.api_core.exceptions import InvalidArgument

from order_tasks.cli.arguments import UsageError, database_url, read_config
from order_tasks.client import OrderTasks
from order_tasks.errors import ConfigError, InvalidOrderError
from order_tasks.message import MAX_BODY_BYTES
from order_tasks.operations import open_database
from order_tasks.operations.times import Clock
from order_tasks.outbox import HORIZON_SECONDS, Row, delete_from

if TYPE_CHECKING:
    from order_tasks.operations.database import Database

YOUNG_SECONDS = 15
"""A row of this age is still the web app's to send."""
_BATCH = 50

# A row with an impossible time, such as milliseconds, counts as old and as due: it can be sent, or named.
_OPEN = "refused IS NULL AND (due IS NULL OR due <= :now + :horizon OR due > 1e11)"
_NEXT = (
    f"SELECT task_id, substr(body, 1, :size), headers, due, added_at FROM outbox WHERE {_OPEN} "
    "AND NOT added_at BETWEEN :now - :age AND :now + :age{after} ORDER BY added_at, task_id LIMIT :batch"
)
_AFTER = " AND (added_at, task_id) > (:added_at, :task_id)"
_COUNT = f"SELECT (SELECT count(*) FROM outbox WHERE {_OPEN}), (SELECT count(*) FROM outbox WHERE refused IS NOT NULL)"
_REFUSE = "UPDATE outbox SET refused = :reason WHERE task_id = :task AND refused IS NULL"


@dataclass(slots=True)
class _Pass:
    sent: int = 0
    waiting: int = 0
    refused: int = 0
    failure: Exception | None = None


def relay(args: argparse.Namespace, clock: Clock) -> int:
    """Send the outbox rows that the web app did not send. Sending a row twice creates one task."""
    if args.every is not None and not args.every > 0:
        raise UsageError("--every must be a number of seconds above 0")
    url = database_url(args)
    if url is None:
        raise ConfigError('ORDER_TASKS_DATABASE_URL is missing: export it, such as "postgresql://USER@HOST/SHOP"')
    config, database = read_config(args), open_database(url)
    with closing(database), OrderTasks(config) as tasks:
        if args.refused:
            database.execute("UPDATE outbox SET refused = NULL WHERE refused IS NOT NULL")
        while True:
            done = _pass(database, tasks)
            sys.stdout.write(f"{done.sent} sent, {done.waiting} wait, {done.refused} are refused\n")
            if done.failure:
                sys.stderr.write(f"ended early: {done.failure}\n")
            if args.every is None:
                return int(done.failure is not None or done.waiting + done.refused > 0)
            sys.stdout.flush()
            clock.sleep(args.every)


def _pass(database: "Database", tasks: OrderTasks) -> _Pass:
    """One pass over the rows that are older than 15 s, oldest first. An error that belongs to no row ends it."""
    done = _Pass()
    try:
        [(now,)] = database.execute(f"SELECT {database.now}")
        values = {"now": now, "age": YOUNG_SECONDS, "horizon": HORIZON_SECONDS}
        after: dict[str, object] = {}
        while done.failure is None:
            statement = _NEXT.format(after=_AFTER if after else "")
            found = database.execute(statement, size=MAX_BODY_BYTES + 1, batch=_BATCH, **values, **after)
            if not found:
                break
            after = {"added_at": found[-1].added_at, "task_id": found[-1].task_id}
            _send(database, tasks, [Row(*row[:4]) for row in found], done)
        [(done.waiting, done.refused)] = database.execute(_COUNT, **values)
    except OSError as error:
        done.failure = error
    return done


def _send(database: "Database", tasks: OrderTasks, rows: Sequence[Row], done: _Pass) -> None:
    published = tasks.publish(rows, lambda ids: delete_from(database.engine, ids))
    done.sent += len(published.sent)
    for task, error in published.waiting.items():
        if isinstance(error, InvalidOrderError | InvalidArgument):
            database.execute(_REFUSE, reason=str(error)[:500], task=task)
        elif error is not None and not published.sent:
            done.failure = error
