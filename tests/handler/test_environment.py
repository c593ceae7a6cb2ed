import pytest
from order_handler.environment import Environment


def test_only_the_attempts_are_required() -> None:
    assert Environment.read({"MAX_ATTEMPTS": "5"}) == Environment(
        host="0.0.0.0", port=8080, max_attempts=5, project=None
    )


def test_every_variable_is_read() -> None:
    variables = {"HOST": "127.0.0.1", "PORT": "9000", "MAX_ATTEMPTS": "1", "GOOGLE_CLOUD_PROJECT": "shop"}
    assert Environment.read(variables) == Environment(host="127.0.0.1", port=9000, max_attempts=1, project="shop")


def test_an_empty_project_is_none() -> None:
    assert Environment.read({"MAX_ATTEMPTS": "5", "GOOGLE_CLOUD_PROJECT": ""}).project is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("MAX_ATTEMPTS", None, "not set"),
        ("MAX_ATTEMPTS", "", "from 1 to 2147483647"),
        ("MAX_ATTEMPTS", "0", "from 1 to 2147483647"),
        ("MAX_ATTEMPTS", "-1", "from 1 to 2147483647"),
        ("MAX_ATTEMPTS", "2.5", "not a whole number"),
        ("MAX_ATTEMPTS", " 5", "not a whole number"),
        ("MAX_ATTEMPTS", "five\n", "not a whole number"),
        ("MAX_ATTEMPTS", "9" * 5000, "not a whole number"),
        ("PORT", "", "from 0 to 65535"),
        ("PORT", "65536", "from 0 to 65535"),
        ("PORT", "http", "not a whole number"),
    ],
)
def test_a_refusal_names_variable_value_reason_and_remedy_in_one_line(
    name: str, value: str | None, reason: str
) -> None:
    variables = {"MAX_ATTEMPTS": "5", name: value}
    with pytest.raises(ValueError, match=name) as refusal:
        Environment.read({key: text for key, text in variables.items() if text is not None})
    text = str(refusal.value)
    assert reason in text
    assert repr(value) in text or value is None
    assert "Set it to" in text or "Give it" in text
    assert "\n" not in text
