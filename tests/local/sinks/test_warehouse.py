"""The local warehouse believes only what is signed with its own key, as a real one would."""

import hashlib
import hmac
from pathlib import Path

import aiohttp
import pytest

from local.faults import Faults
from local.journal import Journal
from local.sinks.warehouse import Warehouse

BODY = b'{"orderId": "ORD-1"}'


def signature(key: str, body: bytes = BODY) -> str:
    return "sha256=" + hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("signed", ["own", "another key", "another body", "nothing"])
async def test_a_notification_is_kept_only_if_it_is_signed_with_the_warehouse_s_key(
    tmp_path: Path, signed: str
) -> None:
    warehouse = Warehouse(Journal(tmp_path / "notifications.jsonl"), Faults(None, tmp_path / "faults.jsonl"))
    signatures = {
        "own": signature(warehouse.secret),
        "another key": signature("another"),
        "another body": signature(warehouse.secret, b"{}"),
        "nothing": "",
    }
    headers = {"X-Signature": signatures[signed], "Idempotency-Key": "1"}
    async with (
        warehouse.serving() as url,
        aiohttp.request("POST", url, data=BODY, headers=headers) as answer,
    ):
        assert answer.status == (204 if signed == "own" else 401)
    kept = [(entry["id"], entry["order"]) for entry in warehouse.notifications.entries()]
    assert kept == ([("1", "ORD-1")] if signed == "own" else [])
