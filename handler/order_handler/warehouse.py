"""The warehouse's webhook: one signed POST an order, within the ledger's claim.

Owns the message, its signature and what an answer means: a refusal that no repeat can change is permanent. Only the
status counts: what else an answer says, in JSON or HTML, is not read. Follows no redirect: that may turn POST into GET.
"""

import hashlib
import hmac
import logging

import httpx
import orjson

from order_handler import trace
from order_handler.environment import Webhook
from order_handler.errors import PermanentError, TransientError
from order_handler.ledger import Ledger, identity

# A later repeat may fare better: too slow, too early, too many.
_PASSING = {408, 425, 429}

# It logs a line a request, with the URL, which may hold a key.
logging.getLogger("httpx").setLevel(logging.WARNING)


class Warehouse:
    def __init__(self, webhook: Webhook, ledger: Ledger) -> None:
        self._webhook = webhook
        self._ledger = ledger
        # The claim has the deadline; variables that are not in environment.py do not count.
        self._client = httpx.AsyncClient(timeout=None, trust_env=False, headers={"User-Agent": "order-handler"})

    async def notify(self, order_id: str, action: str) -> None:
        """Tells the warehouse of the order. Raises what the ledger raises; PermanentError, TransientError."""
        body = orjson.dumps({"orderId": order_id, "action": action})
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": identity(order_id, action),
            "X-Signature": f"sha256={hmac.new(self._webhook.secret.encode(), body, hashlib.sha256).hexdigest()}",
            **trace.outgoing(),
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
            async with self._client.stream("POST", self._webhook.url, content=body, headers=headers) as response:
                return response.status_code
        except httpx.TransportError as error:
            raise TransientError(f"No answer from the warehouse: {type(error).__name__}") from None
