import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_handler.actions.send_confirmation import Mail
from order_handler.environment import Environment, database_url
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

import configuration
from settings import SETTINGS
from tests.accepted import COMPLETE, EXAMPLES, HIDDEN, INCOMPLETE, SECRETS, VARIABLES, cases

QUEUE = "projects/shop/locations/us-central1/queues/dead-letters"
SIMULATED = {
    "MAX_ATTEMPTS": "5",
    "HANDLER_TIMEOUT_SECONDS": "300",
    "DEAD_LETTER_QUEUE": QUEUE,
    "SIMULATE_EFFECTS": "true",
}
REAL = {**SIMULATED, "SIMULATE_EFFECTS": "false", **{VARIABLES[key]: text for key, text in SECRETS.items()}}


def without(variables: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


def refusal(variables: dict[str, str]) -> str:
    """The one line that refuses these variables; fails if it, or what is chained to it, contains a secret."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - each test looks at the text
        Environment.read(variables)
    text = str(refused.value)
    assert HIDDEN not in text
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    assert "\n" not in text
    assert "Set it" in text
    return text


def test_simulated_the_rule_of_the_last_attempt_alone_is_required() -> None:
    assert Environment.read(SIMULATED) == Environment(
        host="0.0.0.0", port=8080, max_attempts=5, timeout=300, dead_letter_queue=QUEUE, database_pool=4
    )


def test_every_variable_is_read() -> None:
    more = {
        "HOST": "127.0.0.1",
        "PORT": "9000",
        "MAX_ATTEMPTS": "1",
        "DATABASE_POOL": "7",
        "GOOGLE_CLOUD_PROJECT": "shop",
        "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:8123",
    }
    environment = Environment.read({**REAL, **more})
    assert environment == Environment(
        host="127.0.0.1",
        port=9000,
        max_attempts=1,
        timeout=300,
        dead_letter_queue=QUEUE,
        database_pool=7,
        project="shop",
        emulator_host="127.0.0.1:8123",
        database_url=SECRETS["databaseUrl"],
        values={VARIABLES[key]: text for key, text in SECRETS.items() if key != "databaseUrl"},
    )
    assert HIDDEN not in repr(environment)


@pytest.mark.parametrize("name", ["GOOGLE_CLOUD_PROJECT", "CLOUD_TASKS_EMULATOR_HOST", *map(VARIABLES.get, SECRETS)])
def test_an_empty_variable_is_not_set(name: str) -> None:
    assert Environment.read({**SIMULATED, name: ""}) == Environment.read(SIMULATED)


@pytest.mark.parametrize(("key", "text"), cases("accepted", *VARIABLES))
def test_a_value_that_the_settings_accept_is_accepted(key: str, text: str) -> None:
    Environment.read({**REAL, VARIABLES[key]: text})


@pytest.mark.parametrize(("key", "text"), cases("refused", *VARIABLES))
def test_a_value_that_the_settings_refuse_is_refused_by_name(key: str, text: str) -> None:
    assert refusal({**REAL, VARIABLES[key]: text}).startswith(f"{VARIABLES[key]} ")


@pytest.mark.parametrize("key", SECRETS)
@given(data=st.data())
def test_the_settings_give_the_same_answer_about_similar_texts(key: str, data: st.DataObject) -> None:
    """Each text is an example with a few characters replaced."""
    text = data.draw(st.sampled_from(EXAMPLES[key]["accepted"] + EXAMPLES[key]["refused"]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 2))
        text = text[:start] + data.draw(st.text(":/?#[]@%&=+. 0aé\n", max_size=3)) + text[end:]
    if text:
        try:
            configuration._value(SETTINGS[key], text)
            accepted = True
        except ValueError:
            accepted = False
        try:
            environment = Environment.read({**REAL, VARIABLES[key]: text})
        except ValueError:
            assert not accepted, text
        else:
            assert accepted or text.startswith("sqlite:///"), text
            usable(key, text, environment)


def usable(key: str, text: str, environment: Environment) -> None:
    """The libraries that get an accepted text can read it."""
    if key == "databaseUrl" and text.startswith("postgresql"):
        make_url(text)
        conninfo_to_dict(text.partition("?")[0])  # libpq knows the names of its parameters, settings do not
    if key == "warehouseUrl":
        assert httpx.URL(text).host
    if key == "smtpUrl":
        assert re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", Mail(text, None).sender)  # type: ignore[arg-type]


@pytest.mark.parametrize("simulated", ["false", None])
@pytest.mark.parametrize("key", SECRETS)
def test_real_effects_need_every_secret(key: str, simulated: str | None) -> None:
    variables = without(REAL, VARIABLES[key], "SIMULATE_EFFECTS")
    if simulated:
        variables["SIMULATE_EFFECTS"] = simulated
    assert refusal(variables).startswith(f"{VARIABLES[key]} is not set")


@pytest.mark.parametrize("given", COMPLETE)
def test_a_secret_that_is_set_is_used_even_if_effects_are_simulated(given: set[str]) -> None:
    found = Environment.read({**SIMULATED, **{VARIABLES[key]: SECRETS[key] for key in given}})
    assert bool(found.database_url) is ("databaseUrl" in given)
    assert set(found.values) == {VARIABLES[key] for key in given} - {"DATABASE_URL"}


@pytest.mark.parametrize(("given", "missing"), INCOMPLETE)
def test_an_effect_that_is_not_simulated_needs_its_ledger_and_its_signature(given: set[str], missing: set[str]) -> None:
    text = refusal({**SIMULATED, **{VARIABLES[key]: SECRETS[key] for key in given}})
    assert text.split(" is not set, but ")[0] in {VARIABLES[key] for key in missing}


def test_sqlite_is_for_the_local_cloud_alone() -> None:
    assert database_url({"DATABASE_URL": "sqlite:////tmp/a.sqlite"}) == "sqlite:////tmp/a.sqlite"
    for text in "sqlite://", "sqlite:///", "sqlite:///a b":
        assert refusal({**REAL, "DATABASE_URL": text}).startswith("DATABASE_URL ")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("MAX_ATTEMPTS", None, "not set"),
        ("MAX_ATTEMPTS", "9" * 5000, "not a whole number from 1 to 1000"),
        ("DATABASE_POOL", "0", "from 1 to 100"),
        ("DATABASE_POOL", "101", "from 1 to 100"),
        ("PORT", "", "from 0 to 65535"),
        ("PORT", "65536", "from 0 to 65535"),
        ("HANDLER_TIMEOUT_SECONDS", None, "not set"),
        ("DEAD_LETTER_QUEUE", None, "not set"),
        ("DEAD_LETTER_QUEUE", "dead-letters", "not projects/P/locations/L/queues/Q"),
        ("DEAD_LETTER_QUEUE", QUEUE + "/tasks/t", "not projects/P/locations/L/queues/Q"),
        ("CLOUD_TASKS_EMULATOR_HOST", "http://127.0.0.1:8123", "not host:port"),
        ("SIMULATE_EFFECTS", "", "neither true nor false"),
    ],
)
def test_a_refusal_names_variable_value_and_reason(name: str, value: str | None, reason: str) -> None:
    text = refusal(without(SIMULATED, name) | ({} if value is None else {name: value}))
    assert text.startswith(f"{name} ")
    assert reason in text
    assert value is None or repr(value) in text
