"""The web app's side of the database."""

from pathlib import Path

from local.sinks.shop import orders_of


def test_only_orders_that_the_shop_will_not_place_are_committed_before(tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text(
        '{"orderId": "ORD-1", "customerEmail": "ada@example.com"}\n'
        '{"orderId": "ORD-1", "action": "issue_refund", "amount": 5}\n'
        '{"orderId": "ORD-2", "action": "update_inventory"}\n'
        '{"action": "resize", "width": 5}\n{"orderId": ["x"], "action": "fly"}\nnonsense\n'
    )
    assert orders_of(file) == (["ORD-2"], 7)
