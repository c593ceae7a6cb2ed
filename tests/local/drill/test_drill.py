import re
import subprocess
import sys

import pytest

from local.program import ROOT


@pytest.mark.timeout(420)
def test_a_short_drill_loses_nothing_and_explains_each_repeat(postgresql_url: str) -> None:
    # The stalls last minutes: the nightly drill has them.
    phases = [part for phase in ("strict", "all", "poison") for part in ("--phase", phase)]
    options = ["--orders", "6", "--seed", "3", "--database-url", postgresql_url, *phases]
    run = subprocess.run(
        [sys.executable, "-m", "local", "drill", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    table = dict(re.findall(r"^│ +(\S.*?) +│ +(\d+) +│$", run.stdout, re.MULTILINE))
    assert run.returncode == 0, run.stdout + run.stderr
    wrong = ("effects lost", "repeats that no fault explains", "pieces sold too many")
    assert [table[row] for row in (*wrong, "dead letters that cannot be processed")] == ["0"] * 4
    assert int(table["orders committed"]) > 6
    assert int(table["faults injected"]) > 0
    assert int(table["dead letters"]) > 0  # the poison order at least
