import pytest
from order_handler.delivery import Delivery

TASK = {"x-cloudtasks-taskname": "task-1", "x-cloudtasks-queuename": "cloud-run-tasks"}


def test_a_request_without_a_task_name_is_no_delivery() -> None:
    assert Delivery.read({"x-cloudtasks-queuename": "cloud-run-tasks", "x-cloudtasks-taskretrycount": "0"}) is None


def test_a_delivery_names_its_task_and_its_queue() -> None:
    assert Delivery.read({**TASK, "x-cloudtasks-taskretrycount": "3"}) == Delivery("cloud-run-tasks", "task-1", 3)
    assert Delivery.read({"x-cloudtasks-taskname": "task-1"}) == Delivery(None, "task-1", None)


@pytest.mark.parametrize(
    ("retry_count", "attempt", "last_of_five"),
    [
        ("0", 1, False),
        ("3", 4, False),
        ("4", 5, True),
        ("5", 6, True),
        ("007", 8, True),
        ("2147483647", 2147483648, True),
        (None, None, True),
        ("", None, True),
        ("-1", None, True),
        ("+1", None, True),
        ("1.0", None, True),
        (" 1", None, True),
        ("1\n", None, True),
        ("1_0", None, True),
        ("²", None, True),
        ("9" * 5000, None, True),
        ("many", None, True),
    ],
)
def test_an_attempt_is_one_more_than_the_retry_count_and_an_unknown_one_is_the_last(
    retry_count: str | None, attempt: int | None, last_of_five: bool
) -> None:
    headers = TASK if retry_count is None else {**TASK, "x-cloudtasks-taskretrycount": retry_count}
    delivery = Delivery.read(headers)
    assert delivery is not None
    assert delivery.attempt == attempt
    assert delivery._replace(max_attempts=5).is_last is last_of_five
    assert not delivery.is_last


def test_the_execution_count_says_nothing_about_the_attempt() -> None:
    delivery = Delivery.read({**TASK, "x-cloudtasks-taskretrycount": "1", "x-cloudtasks-taskexecutioncount": "9"})
    assert delivery is not None
    assert delivery.attempt == 2


@pytest.mark.parametrize(
    ("eta", "due"), [("1767225600.5", 1767225600.5), ("1767225600", 1767225600.0), ("soon", None), (None, None)]
)
def test_a_delivery_says_when_it_was_due(eta: str | None, due: float | None) -> None:
    delivery = Delivery.read({**TASK, **({"x-cloudtasks-tasketa": eta} if eta else {})})
    assert delivery is not None
    assert delivery.due == due
