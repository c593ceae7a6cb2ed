import pytest
from order_handler.environment import Environment, MailServer, Webhook

QUEUE = "projects/shop/locations/us-central1/queues/dead-letters"
SIMULATED = {
    "MAX_ATTEMPTS": "5",
    "HANDLER_TIMEOUT_SECONDS": "300",
    "DEAD_LETTER_QUEUE": QUEUE,
    "SIMULATE_EFFECTS": "true",
}
SECRETS = {
    "DATABASE_URL": "postgresql://shop:geheim@db.example/shop",
    "SMTP_URL": "smtp://shop:geheim@mail.example?from=shop@example.org",
    "WAREHOUSE_URL": "https://warehouse.example/orders?key=geheim",
    "WAREHOUSE_SECRET": "geheim",
}
REAL = {**SIMULATED, "SIMULATE_EFFECTS": "false", **SECRETS}


def without(variables: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


def test_simulated_the_rule_of_the_last_attempt_alone_is_required() -> None:
    assert Environment.read(SIMULATED) == Environment(
        host="0.0.0.0", port=8080, max_attempts=5, timeout=300, dead_letter_queue=QUEUE
    )


def test_every_variable_is_read() -> None:
    more = {
        "HOST": "127.0.0.1",
        "PORT": "9000",
        "MAX_ATTEMPTS": "1",
        "GOOGLE_CLOUD_PROJECT": "shop",
        "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:8123",
    }
    assert Environment.read({**REAL, **more}) == Environment(
        host="127.0.0.1",
        port=9000,
        max_attempts=1,
        timeout=300,
        dead_letter_queue=QUEUE,
        project="shop",
        emulator_host="127.0.0.1:8123",
        database_url=SECRETS["DATABASE_URL"],
        mail=MailServer("mail.example", 587, False, "shop@example.org", "shop", "geheim"),
        warehouse=Webhook(SECRETS["WAREHOUSE_URL"], "geheim"),
    )


@pytest.mark.parametrize("name", ["GOOGLE_CLOUD_PROJECT", "CLOUD_TASKS_EMULATOR_HOST", *SECRETS])
def test_what_is_empty_is_not_set(name: str) -> None:
    assert Environment.read({**SIMULATED, name: ""}) == Environment.read(SIMULATED)


@pytest.mark.parametrize("simulated", ["false", None])
@pytest.mark.parametrize("name", SECRETS)
def test_real_effects_need_every_secret(name: str, simulated: str | None) -> None:
    variables = without(REAL, name, "SIMULATE_EFFECTS")
    if simulated:
        variables["SIMULATE_EFFECTS"] = simulated
    with pytest.raises(ValueError, match=f"^{name} is not set.* Set it"):
        Environment.read(variables)


def test_simulated_what_is_there_is_real_all_the_same() -> None:
    found = Environment.read({**SIMULATED, **without(SECRETS, "WAREHOUSE_URL", "WAREHOUSE_SECRET")})
    assert found.database_url == SECRETS["DATABASE_URL"]
    assert found.mail is not None
    assert found.warehouse is None


@pytest.mark.parametrize("name", ["SMTP_URL", "WAREHOUSE_URL"])
def test_what_happens_outside_the_database_needs_a_ledger(name: str) -> None:
    variables = {**SIMULATED, name: SECRETS[name], "WAREHOUSE_SECRET": "geheim"}
    with pytest.raises(ValueError, match=f"^DATABASE_URL is not set, but {name} is: .* Set it to"):
        Environment.read(variables)


def test_a_warehouse_needs_a_secret() -> None:
    variables = {**SIMULATED, **without(SECRETS, "WAREHOUSE_SECRET")}
    with pytest.raises(ValueError, match=r"^WAREHOUSE_SECRET is not set, but WAREHOUSE_URL is: .* Set it to"):
        Environment.read(variables)


@pytest.mark.parametrize(
    "url",
    ["postgresql://shop@db/shop", "postgresql+psycopg:///shop?host=/cloudsql/a", "sqlite:///shop.db", "sqlite:////a"],
)
def test_a_database_is_postgresql_or_a_file_of_sqlite(url: str) -> None:
    assert Environment.read({**SIMULATED, "DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example?from=a@b.c", MailServer("mail.example", 587, False, "a@b.c")),
        ("smtps://mail.example/?from=a%2Bb@b.c", MailServer("mail.example", 465, True, "a+b@b.c")),
        ("smtp://127.0.0.1:2525?from=a+b@b.c", MailServer("127.0.0.1", 2525, False, "a+b@b.c")),
        ("smtps://u%40x:p%3A%2F@[::1]?from=a@b.c", MailServer("::1", 465, True, "a@b.c", "u@x", "p:/")),
    ],
)
def test_a_mail_server_is_read_from_its_url(url: str, server: MailServer) -> None:
    assert Environment.read({**REAL, "SMTP_URL": url}).mail == server


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://shop:geheim@db/shop"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "geheim"),
        ("DATABASE_URL", "postgresql://shop:geheim@db/shop\n"),
        ("SMTP_URL", "smtp://shop:geheim@mail.example"),
        ("SMTP_URL", "smtp://shop:geheim@mail.example?from=shop"),
        ("SMTP_URL", "smtp://shop:geheim@mail.example?from=a@b.c&from=d@e.f"),
        ("SMTP_URL", "smtp://shop:geheim@mail.example?from=a@b.c&tls=no"),
        ("SMTP_URL", "smtp://shop:geheim@mail.example/path?from=a@b.c"),
        ("SMTP_URL", "smtp://shop:geheim@mail.example:port?from=a@b.c"),
        ("SMTP_URL", "smtp://shop:geheim@?from=a@b.c"),
        ("SMTP_URL", "smtp://geheim@mail.example?from=a@b.c"),
        ("SMTP_URL", "http://shop:geheim@mail.example?from=a@b.c"),
        ("SMTP_URL", "smtp://shop:geheim@[mail.example?from=a@b.c"),
        ("WAREHOUSE_URL", "ftp://warehouse.example/?key=geheim"),
        ("WAREHOUSE_URL", "https://?key=geheim"),
        ("WAREHOUSE_URL", "https://warehouse.example:geheim/"),
        ("WAREHOUSE_URL", "https://[geheim"),
        ("WAREHOUSE_SECRET", "geheim\n"),
        ("WAREHOUSE_SECRET", " geheim"),
    ],
)
def test_a_secret_is_refused_by_name_and_never_by_value(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name) as refusal:
        Environment.read({**REAL, name: value})
    text = str(refusal.value)
    assert "Set it" in text
    assert "geheim" not in text
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    assert "\n" not in text


def test_no_secret_shows_when_it_is_printed() -> None:
    assert "geheim" not in repr(Environment.read(REAL))


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
        ("HANDLER_TIMEOUT_SECONDS", None, "not set"),
        ("HANDLER_TIMEOUT_SECONDS", "0", "from 1 to"),
        ("HANDLER_TIMEOUT_SECONDS", "300s", "not a whole number"),
        ("DEAD_LETTER_QUEUE", None, "not set"),
        ("DEAD_LETTER_QUEUE", "dead-letters", "not projects/P/locations/L/queues/Q"),
        ("DEAD_LETTER_QUEUE", QUEUE + "/tasks/t", "not projects/P/locations/L/queues/Q"),
        ("CLOUD_TASKS_EMULATOR_HOST", "http://127.0.0.1:8123", "not host:port"),
        ("SIMULATE_EFFECTS", "yes", "neither true nor false"),
        ("SIMULATE_EFFECTS", "", "neither true nor false"),
    ],
)
def test_a_refusal_names_variable_value_reason_and_remedy_in_one_line(
    name: str, value: str | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name} ") as refusal:
        Environment.read(without(SIMULATED, name) | ({} if value is None else {name: value}))
    text = str(refusal.value)
    assert reason in text
    assert repr(value) in text or value is None
    assert "Set it to" in text or "Give it" in text
    assert "\n" not in text
