"""The customers of a drill, and the caller of the relay: everything that reaches the pipeline from outside.

A customer sends an order to the shop once, whatever the answer. So only the shop's database knows which orders were
committed, and what the shop did not send only the relay can send.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import aiohttp

from local.sinks.shop import item_of

Note = Callable[[str, str], None]
"""Records a fault: its place and its kind."""

_AT_ONCE = 5
_ANSWER_SECONDS = 5.0
_RELAY_EVERY_SECONDS = 4.0


class Customers:
    """Customers who order until the shop has accepted a number of orders."""

    def __init__(
        self, orders: Iterator[tuple[str, str]], count: int, http: aiohttp.ClientSession, chance: random.Random
    ) -> None:
        """`orders`: ids and addresses. `count`: the orders to be accepted."""
        self._orders = orders
        self._missing = count
        self._http = http
        self._chance = chance

    async def place(self, at: Mapping[str, str]) -> None:
        """Places orders, a few at once, until enough are accepted."""
        await self._open(at["shop"])
        await asyncio.gather(*(self._place_each(at["shop"]) for _ in range(_AT_ONCE)))

    async def _open(self, shop: str) -> None:
        """Waits until the shop answers, so that a start costs no orders."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._http.get(f"{shop}/orders/none", timeout=_timeout(_ANSWER_SECONDS)):
                    return
            await asyncio.sleep(0.1)

    async def _place_each(self, shop: str) -> None:
        while self._missing > 0:
            self._missing -= 1
            order, address = next(self._orders)
            body = {"orderId": order, "customerEmail": address, "lines": [{"item": item_of(order)}]}
            accepted = False
            try:
                async with self._http.post(f"{shop}/orders", json=body, timeout=_timeout(_ANSWER_SECONDS)) as answer:
                    accepted = answer.status == 201
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.5)
            finally:
                self._missing += not accepted
            await asyncio.sleep(self._chance.uniform(0, 0.5))


@contextlib.asynccontextmanager
async def relaying(
    at: Mapping[str, str], http: aiohttp.ClientSession, chance: random.Random, note: Note | None = None
) -> AsyncIterator[None]:
    """Calls the relay now and then, as Cloud Scheduler does each minute. With `note`, the calls fail at times."""
    calling = asyncio.create_task(_relay(at, http, chance, note))
    try:
        yield
    finally:
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)


async def _relay(at: Mapping[str, str], http: aiohttp.ClientSession, chance: random.Random, note: Note | None) -> None:
    query = {"email": at["invoker_email"], "audience": at["service_url"]}
    while True:
        await asyncio.sleep(_RELAY_EVERY_SECONDS)
        kind = chance.choice(("called twice", "answer lost", "not called", "")) if note else ""
        if note and kind:
            note("relay", kind)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with http.get(f"{at['issuer']}/token", params=query) as answer:
                headers = {"Authorization": f"Bearer {await answer.text()}"}
            times = {"called twice": 2, "not called": 0}.get(kind, 1)
            seconds = 0.05 if kind == "answer lost" else 60.0
            calls = (_call(http, f"{at['service_url']}/relay", headers, seconds) for _ in range(times))
            await asyncio.gather(*calls)


async def _call(http: aiohttp.ClientSession, url: str, headers: Mapping[str, str], seconds: float) -> None:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with http.post(url, headers=headers, timeout=_timeout(seconds)):
            pass


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)
