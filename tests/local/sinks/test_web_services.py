"""The web services that actions call: the warehouse takes signed calls only, the others all."""

import hashlib
import hmac
from pathlib import Path

import aiohttp
import pytest

from local.faults import Faults
from local.journal import Journal
from local.sinks.web_services import SIGNED, WebServices

BODY = b'{"orderId": "ORD-1"}'


def signature(key: str, body: bytes = BODY) -> str:
    return "sha256=" + hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


@pytest.fixture
def services(tmp_path: Path) -> WebServices:
    return WebServices(Journal(tmp_path / "calls.jsonl"), Faults(None, tmp_path / "faults.jsonl"))


@pytest.mark.parametrize("signed", ["own", "another key", "another body", "nothing"])
async def test_a_notification_is_kept_only_if_it_is_signed_with_the_warehouse_s_key(
    services: WebServices, signed: str
) -> None:
    signatures = {
        "own": signature(services.warehouse_secret),
        "another key": signature("another"),
        "another body": signature(services.warehouse_secret, b"{}"),
        "nothing": "",
    }
    headers = {"X-Signature": signatures[signed], "Idempotency-Key": "1"}
    async with services.serving() as url, aiohttp.request("POST", url + SIGNED, data=BODY, headers=headers) as answer:
        assert answer.status == (200 if signed == "own" else 401)
    kept = [(call["id"], call["order"]) for call in services.calls(SIGNED)]
    assert kept == ([("1", "ORD-1")] if signed == "own" else [])


async def test_any_other_service_takes_every_call_and_keeps_it_under_its_variable(services: WebServices) -> None:
    async with services.serving() as url, aiohttp.ClientSession() as session:
        for method, path in (("POST", "REFUND_URL"), ("PUT", "REFUND_URL/ORD-1?now=1")):
            async with session.request(method, url + path, data=BODY, headers={"Idempotency-Key": method}) as answer:
                assert (answer.status, await answer.json()) == (200, {})
        async with session.get(url + "OTHER_URL", headers={"Host": "page.example"}) as refused:
            assert refused.status == 403
    assert [(call["id"], call["order"]) for call in services.calls("REFUND_URL")] == [
        ("POST", "ORD-1"),
        ("PUT", "ORD-1"),
    ]
    assert services.calls("OTHER_URL") == []
