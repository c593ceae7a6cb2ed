"""Names and messages, as pure functions of an order."""

import json
import re

import pytest
from google.cloud.tasks_v2 import HttpMethod
from hypothesis import given
from hypothesis import strategies as st
from order_tasks import Config, InvalidOrderError, Order
from order_tasks.message import Message, task_id

CONFIG = Config("projects/p/locations/l/queues/q", "https://handler.run.app/", "invoker@p.iam.gserviceaccount.com")
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(CHARACTERS, min_size=1)


@given(order_id=TEXT, action=TEXT)
def test_every_order_has_a_name_that_the_service_takes_and_that_never_changes(order_id: str, action: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}-[A-Za-z0-9_-]{1,483}", task_id(order_id, action))
    assert task_id(order_id, action) == task_id(order_id, action)


@given(st.lists(st.tuples(TEXT, TEXT), unique=True))
def test_no_two_orders_or_actions_share_a_name(pairs: list[tuple[str, str]]) -> None:
    assert len({task_id(order_id, action) for order_id, action in pairs}) == len(pairs)


def test_ids_that_read_alike_have_different_names() -> None:
    alike = [("a/b", "c"), ("a-b", "c"), ("a", "b-c"), ("b", "c-a"), ("x" * 600, "c"), ("x" * 601, "c")]
    assert len({task_id(*pair) for pair in alike}) == len(alike)


def test_a_name_is_the_hash_then_what_a_person_reads() -> None:
    assert task_id("ORD/1", "send_confirmation") == "a95097975b71463f-send_confirmation-ORD-1"


def test_a_request_is_exactly_what_the_handler_and_the_invoker_need() -> None:
    request = Message("send_confirmation", {"orderId": "ORD-1", "customerEmail": "ada@example.com"}).request(CONFIG)
    assert request.parent == CONFIG.queue
    assert request.task.name == f"{CONFIG.queue}/tasks/{task_id('ORD-1', 'send_confirmation')}"
    http = request.task.http_request
    assert http.http_method == HttpMethod.POST
    assert http.url == "https://handler.run.app/process-order"
    assert dict(http.headers) == {"Content-Type": "application/json"}
    assert json.loads(http.body) == {
        "orderId": "ORD-1",
        "action": "send_confirmation",
        "customerEmail": "ada@example.com",
    }
    assert http.oidc_token.service_account_email == CONFIG.invoker_email
    assert http.oidc_token.audience == "https://handler.run.app"
    assert "oauth_token" not in http


@given(order_id=st.text(CHARACTERS, min_size=1, max_size=500), email=st.text(CHARACTERS, min_size=1, max_size=320))
def test_the_message_carries_the_raw_order_id_and_e_mail(order_id: str, email: str) -> None:
    message = json.loads(Order(order_id, email).messages[0].body())
    assert (message["orderId"], message["customerEmail"]) == (order_id, email)


def test_without_an_invoker_a_task_has_no_token_and_without_a_url_the_placeholder() -> None:
    for url, sent in (("https://handler.run.app", "https://handler.run.app"), (None, "https://handler.invalid")):
        request = Message("update_inventory", {"orderId": "ORD-1"}).request(Config(CONFIG.queue, url))
        assert request.task.http_request.url == f"{sent}/process-order"
        assert "oidc_token" not in request.task.http_request


@pytest.mark.parametrize(("actions", "reason"), [((), "at least one"), ("send_confirmation", "pass a tuple")])
def test_an_order_needs_actions(actions: tuple[str, ...], reason: str) -> None:
    with pytest.raises(InvalidOrderError, match=reason):
        Order("ORD-1", "ada@example.com", actions)
