"""notify_warehouse: tells the warehouse of the order, with one signed POST.

A refusal that no repeat can change is permanent. Only the status counts: what else an answer says, in JSON or HTML, is
not read. Follows no redirect: that may turn POST into GET.
"""

import hashlib
import hmac
import logging
from typing import TYPE_CHECKING

import orjson

from order_handler import trace
from order_handler.action import Action, OrderMessage, http_url, identity, secret_key
from order_handler.delivery import Delivery
from order_handler.errors import PermanentError, TransientError

if TYPE_CHECKING:
    from order_handler.ledger import Ledger

# A later repeat may fare better: too slow, too early, too many.
_PASSING = {408, 425, 429}

# It logs a line a request, with the URL, which may hold a key.
logging.getLogger("httpx").setLevel(logging.WARNING)


async def run(message: OrderMessage, warehouse: "Warehouse | None", delivery: Delivery | None) -> str:
    if warehouse is None:
        return f"Warehouse notified of {message.order_id} (simulated)"
    await warehouse.notify(message.order_id, message.effect)
    return f"Warehouse notified of {message.order_id}"


class Warehouse:
    def __init__(self, url: str, secret: str, ledger: "Ledger") -> None:
        """`secret`: the key that signs each body."""
        import httpx

        self._url = url
        self._secret = secret.encode()
        self._ledger = ledger
        # The claim has the deadline; variables that are not in environment.py do not count.
        self._client = httpx.AsyncClient(timeout=None, trust_env=False, headers={"User-Agent": "order-handler"})
        self._no_answer = httpx.TransportError

    async def notify(self, order_id: str, action: str) -> None:
        """Tells the warehouse of the order. Raises what the ledger raises; PermanentError, TransientError."""
        body = orjson.dumps({"orderId": order_id, "action": action})
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": identity(order_id, action),
            "X-Signature": f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}",
            **trace.headers(),
        }
        async with self._ledger.once(order_id, action):
            status = await self._post(body, headers)
            if not 200 <= status < 300:
                permanent = 400 <= status < 500 and status not in _PASSING
                raise (PermanentError if permanent else TransientError)(f"The warehouse answered {status}")

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, body: bytes, headers: dict[str, str]) -> int:
        try:
            # As a stream: a body that never ends must not undo an answer that arrived.
            async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                return response.status_code
        except self._no_answer as error:
            raise TransientError(f"No answer from the warehouse: {type(error).__name__}") from None


ACTION = Action(
    OrderMessage,
    run,
    lambda opening: Warehouse(opening.values["WAREHOUSE_URL"], opening.values["WAREHOUSE_SECRET"], opening.ledger),
    (
        http_url("WAREHOUSE_URL", "URL that the warehouse is notified at"),
        secret_key("WAREHOUSE_SECRET", "Key that signs the notifications"),
    ),
)
