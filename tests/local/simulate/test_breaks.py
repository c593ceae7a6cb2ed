"""Each rule of the protocols matters: without it, some seed loses, repeats or never ends an effect."""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any
from unittest.mock import patch

import pytest
from order_handler import app, attempt, cloud_tasks, dead_letters, ledger, outbox
from order_handler.actions import update_inventory
from order_tasks import outbox as producer
from order_tasks.operations import queues, replay

from local.simulate.simulation import simulate

MOST_SEEDS = 60
"""How many are tried if the first that found a break does not find it any more."""
BREAKS: dict[str, tuple[int, Any, str, str]] = {
    "a claim is taken over at once": (6, ledger, "effects.claimed_until <= epoch_now()", "TRUE"),
    "a claim is taken over although the effect is done": (1, ledger, "effects.done_at IS NULL AND", ""),
    "an effect is recorded before it happens": (
        0,
        ledger.Ledger.once,
        "        yield\n",
        "        await self.record(order_id, action, token)\n            yield\n",
    ),
    "an effect is not recorded": (4, ledger.Ledger.once, "await self._record_until(begin", "_ = (begin"),
    "stock is taken without a row in the ledger": (
        0,
        update_inventory._take_in_steps,
        "if not connection.execute(text(RECORD), values).first():",
        "if connection.execute(text(DONE_BY), values).first():",
    ),
    "the last attempt runs without a reservation": (
        4,
        attempt.Attempts._make_last,
        "await self._dead_letters.reserve(delivery, body)",
        "Stored(Outcome.UNKNOWN)",
    ),
    "an order that is not stored counts as stored": (24, attempt._kept, "if stored.safe", "if True"),
    "a reservation is deleted although the failure is not stored": (
        1,
        attempt.Attempts._make_last,
        "return _troubled(_kept(attempt, reserved),",
        "await self._dead_letters.release(delivery, body, reserved.again, failed=True)\n"
        "        return _troubled(_kept(attempt, reserved),",
    ),
    "an order whose entry was deleted has no other reservation": (
        23,
        dead_letters.DeadLetters.reserve,
        "if reserved.outcome is not Outcome.BLOCKED",
        "if True",
    ),
    "a replay that fails for good leaves the queue": (
        4,
        attempt.Attempts._keep,
        "return attempt._replace(will_retry=not delivery.is_last)",
        "return attempt._replace(end=End.FAILED if delivery.max_attempts else End.DEAD_LETTERED)",
    ),
    "a replay deletes the entry before its attempt has ended": (
        9,
        replay.Replay.run,
        "self._queues.run(entry.path)",
        "self._queues.run(entry.path) and self._queues.delete(entry.path)",
    ),
    "a replay does not pause the dead-letter queue again": (
        10,
        queues.Queues.resumed_dead_letters,
        "self.pause(self.dead_letters)",
        "self.describe(self.dead_letters)",
    ),
    "a failure is answered 200": (0, app.App._answer, "status, answer = 500", "status, answer = 200"),
    "publish deletes rows whose tasks were not created": (
        2,
        producer.published,
        "isinstance(result, Exception)",
        "False",
    ),
    "the relay deletes rows that it did not send": (
        34,
        outbox.Relay._send_all,
        "for row in rows if row.task_id not in failures]",
        "for row in rows]",
    ),
    "the relay keeps rows that were sent": (0, outbox._note, "if sent:", "if False:"),
    "the relay takes every error for the end of the row": (
        1,
        cloud_tasks.CloudTasks.send,
        "raise BlockedError(str(error))",
        "raise PermanentError(str(error))",
    ),
    "the rows are not in the order's transaction": (
        0,
        producer.insert,
        "    connection.execute(",
        "    connection.commit()\n    connection.begin()\n    connection.execute(",
    ),
}
"""By what is broken: the first seed that finds it, where, and the change."""


@contextmanager
def broken(target: Any, old: str, new: str) -> Iterator[None]:  # noqa: ANN401 - a function, or a module with SQL
    """Replaces a part of a function's source, or of the module's claim, while it is active."""
    if not callable(target):
        assert old in target._CLAIM
        with patch.object(target, "_CLAIM", target._CLAIM.replace(old, new)):
            yield
        return
    function: FunctionType = inspect.unwrap(target)
    whole = function.__code__
    source = textwrap.dedent(inspect.getsource(function))
    source = source[source.index("async def" if "async def" in source else "def") :]  # without decorators
    assert source.count(old) == 1, f"{old!r} is not once in {function.__qualname__}"
    made: dict[str, FunctionType] = {}
    exec(compile(source.replace(old, new), whole.co_filename, "exec"), function.__globals__, made)
    function.__code__ = made[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = whole


@pytest.mark.parametrize("rule", BREAKS)
@pytest.mark.timeout(900)
def test_a_broken_rule_is_found(rule: str) -> None:
    known, *change = BREAKS[rule]
    with broken(*change):
        assert any(simulate(seed).problems for seed in (known, *range(MOST_SEEDS)))
