import re
import subprocess
import sys

import pytest

from local.program import ROOT


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_short_drill_loses_nothing_and_does_nothing_twice(database: str, request: pytest.FixtureRequest) -> None:
    url = ["--database-url", request.getfixturevalue("postgresql_url")] if database == "postgresql" else []
    run = subprocess.run(
        [sys.executable, "-m", "local", "drill", "--orders", "12", "--seed", "3", *url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    table = dict(re.findall(r"^│ +(\S.*?) +│ +(\d+) +│$", run.stdout, re.MULTILINE))
    assert run.returncode == 0, run.stdout + run.stderr
    assert (table["lost"], table["twice"], table["effects done"]) == ("0", "0", "36")
    assert int(table["faults injected"]) > 0
