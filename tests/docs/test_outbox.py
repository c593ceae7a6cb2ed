"""The recipes of docs/outbox.md, run as they stand there."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from order_tasks import outbox
from sqlalchemy import create_engine, text

from local.program import ROOT
from tests.local.cloud_tasks.serving import ACCOUNT, LOCATION, Serving

QUEUE = f"{LOCATION}/queues/orders"
PAGE = (ROOT / "docs/outbox.md").read_text()

DJANGO = """
import django, sys
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}})
django.setup()
%s
from django.test import RequestFactory
order = {"orderId": "ORD-1001", "customerEmail": "ada@example.com"}
assert place(RequestFactory().post("/orders", order, content_type="application/json")).status_code == 201
"""
SQLALCHEMY = """
import sys
from sqlalchemy import create_engine, text
engine = create_engine(f"sqlite:///{sys.argv[1]}")
%s
"""


@pytest.fixture
def service() -> Iterator[Serving]:
    with Serving(declared={QUEUE: []}) as service:
        service.now = time.time()
        yield service


def recipe(section: str, language: str = "python") -> str:
    [found] = re.findall(rf"## {section}\n.*?```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.mark.parametrize(
    ("section", "around"),
    [("With SQLAlchemy", SQLALCHEMY), ("In a Django view", DJANGO), ("In an asyncio script", "%s")],
)
def test_a_recipe_commits_sends_and_deletes(
    section: str, around: str, service: Serving, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    script, file = tmp_path / "recipe.py", tmp_path / "shop.sqlite"
    url = request.getfixturevalue("postgresql_url") if "asyncpg" in recipe(section) else f"sqlite:///{file}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (order_id TEXT)"))
        connection.execute(text(outbox.TABLE[engine.dialect.name]))
    script.write_text(around % recipe(section))
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "ORDER_TASKS_QUEUE": QUEUE,
        "ORDER_TASKS_SERVICE_URL": "https://handler.example",
        "ORDER_TASKS_INVOKER_EMAIL": ACCOUNT,
        "CLOUD_TASKS_EMULATOR_HOST": service.grpc,
    }
    run = subprocess.run(
        [sys.executable, script, file], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    with engine.connect() as connection:
        assert connection.execute(text("SELECT order_id FROM orders")).scalars().all() == ["ORD-1001"]
        assert connection.execute(text("SELECT * FROM outbox")).all() == []
    engine.dispose()
    assert len(service.events) == 3


def test_the_sql_of_the_page_is_the_table_of_the_code(postgresql_url: str) -> None:
    definition, insert = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    assert definition == f"{outbox.TABLE['postgresql']};\n{outbox.INDEX};\n"
    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        for statement in definition.split(";\n")[:-1]:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql(insert.replace("$1", "'task'").replace("$2", "'{}'"))
        assert connection.execute(text("SELECT added_at > 1.7e9, refused FROM outbox")).one() == (True, None)
    engine.dispose()
