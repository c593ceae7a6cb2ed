"""One contract: what the handler publishes is what the producer checks, in the same words."""

import datetime
import decimal
import uuid
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
import order_handler.contract
import order_handler.trace
import order_tasks.contract
import order_tasks.trace
import pytest
from msgspec import Meta
from order_handler import orders
from order_handler import outbox as relay
from order_handler.action import Action, Message
from order_handler.actions import ACTIONS
from order_handler.errors import PermanentError
from order_tasks import outbox
from order_tasks.cli.relay import YOUNG_SECONDS

from local.program import ROOT

CONTRACT: dict[str, Any] = order_handler.contract.contract()


def refused(message: Mapping[str, Any]) -> str:
    """Why both refuse this message; empty if both take it."""
    words = ""
    try:
        orders.parse(msgspec.json.encode(message)).message()
    except PermanentError as error:
        words = str(error)
    assert order_tasks.contract.refusal(message) == words
    return words


def test_the_published_contract_is_that_of_the_declarations() -> None:
    """To write it: cd handler && .venv/bin/python -m order_handler.contract > contract.json"""
    for file in ("handler/contract.json", "producer/order_tasks/contract.json"):
        assert (ROOT / file).read_text() == order_handler.contract.text()
    assert order_tasks.contract.contract() == CONTRACT
    assert order_tasks.trace.OWN_HEADER == order_handler.trace.OWN_HEADER


@pytest.mark.parametrize("action", CONTRACT)
def test_the_limits_of_both_are_the_contracts(action: str) -> None:
    for name, field in CONTRACT[action]["message"]["properties"].items():
        if name != "action" and field.keys() & {"type", "anyOf", "enum"}:
            wrong: Any = 7 if field.get("type") in ("array", "object") else []
            assert f"{name}: " in refused({"action": action, name: wrong})
        if "maxLength" in field:
            longest = "x" * field["maxLength"]
            assert f"{name}: Expected `str` of length" not in refused({"action": action, name: longest})
            assert f"{name}: Expected `str` of length <= {len(longest)}" in refused(
                {"action": action, name: longest + "x"}
            )


def test_rows_of_the_outbox_have_the_same_limits_for_producer_and_relay() -> None:
    assert outbox._COLUMNS == relay._COLUMNS
    assert outbox.HORIZON_SECONDS == relay.HORIZON_SECONDS
    assert YOUNG_SECONDS == relay.YOUNG_SECONDS


class Line(msgspec.Struct, rename="camel"):
    item_name: Annotated[str, Meta(min_length=2)]
    quantity: Annotated[int, Meta(ge=1, le=9)] = 1


class Everything(Message, rename="camel", kw_only=True, frozen=True):
    currency: Literal["EUR", "USD"]
    amount: Annotated[int, Meta(gt=0)]
    share: Annotated[float, Meta(lt=1)] = 0.5
    price: decimal.Decimal = decimal.Decimal(1)
    when: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    day: datetime.date | None = None
    number: uuid.UUID | None = None
    urgent: bool = False
    lines: Annotated[list[Line], Meta(max_length=2)] | None = None
    labels: dict[str, int] | None = None
    anything: Any = None
    either: int | str = 0


EVERYTHING: dict[str, Any] = {"action": "everything", "key": "k", "currency": "EUR", "amount": 5}


@pytest.fixture
def _everything(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(ACTIONS, "everything", Action(Everything, None, None))  # type: ignore[arg-type]
    monkeypatch.setattr(order_tasks.contract, "contract", order_handler.contract.contract)
    yield
    order_tasks.contract._fields.cache_clear()


@pytest.mark.usefixtures("_everything")
@pytest.mark.parametrize(
    "change",
    [
        {"currency": "GBP"},
        {"amount": 0},
        {"amount": 1.5},
        {"share": 1},
        {"price": "much"},
        {"when": "tomorrow"},
        {"day": "2026-02-30"},
        {"number": "7"},
        {"urgent": "yes"},
        {"lines": [{"itemName": "x"}]},
        {"lines": [{"itemName": "cup", "quantity": 10}]},
        {"lines": [{}]},
        {"lines": [{"itemName": "cup"}] * 3},
        {"lines": {}},
        {"labels": {"a": "b"}},
        {"either": []},
    ],
    ids=str,
)
def test_any_type_of_a_field_is_refused_in_the_same_words(change: dict[str, Any]) -> None:
    right = {"when": "2026-02-01T00:00:00Z", "day": "2026-02-01", "price": "1.50", "number": str(uuid.uuid4())}
    assert refused({**EVERYTHING, **right, "lines": [{"itemName": "cup"}], "anything": [{}], "either": "x"}) == ""
    [name] = change
    assert refused({**EVERYTHING, **change}).startswith(f"{name}: ")
    assert refused({name: value for name, value in EVERYTHING.items() if name == "action"}) == (
        "Missing key; Missing currency; Missing amount"
    )
