"""Every command of `gcloud` and `pulumi` in the pages exists and takes its flags, as the installed tools know them."""

import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from local.program import ROOT

PAGES = "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))


def commands(tool: str) -> Iterator[tuple[list[str], list[str]]]:
    """Words and flags of each command, without what is quoted."""
    for block in re.findall(r"^\$ (.*)", PAGES, re.MULTILINE):
        plain = re.sub(r"\"[^\"$]*\"|'[^']*'", "QUOTED", block.replace("$STACK", "STACK"))
        for found in re.findall(rf"(?:^|\(|; |do |=\S+ )({tool} [^|;)]*)", plain):
            words = found.split()[1:]
            yield [word for word in words if word[0] != "-"], [w.partition("=")[0] for w in words if w[0] == "-"]


def test_gcloud_knows_every_command_and_flag() -> None:
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        pytest.skip("no gcloud on the path: install the Google Cloud CLI")
    completions = Path(gcloud).resolve().parents[1] / "data/cli/gcloud_completions.py"
    root: dict[str, Any] = runpy.run_path(str(completions))["STATIC_COMPLETION_CLI_TREE"]
    unknown = []
    for words, flags in commands("gcloud"):
        node, known = root, set(root["flags"])
        for word in words:
            if word not in node["commands"]:
                break
            node = node["commands"][word]
            known |= set(node["flags"])
        unknown += [(words, flag) for flag in flags if flag.replace("--no-", "--") not in known] + [(words, "")] * bool(
            node["commands"]
        )
    assert unknown == []


@cache
def help_of(command: str) -> str:
    return subprocess.run(["pulumi", *command.split(), "--help"], capture_output=True, text=True, check=True).stdout


def test_pulumi_knows_every_command_and_flag() -> None:
    if not shutil.which("pulumi"):
        pytest.skip("no pulumi on the path: install the Pulumi CLI, https://www.pulumi.com/docs/install/")
    groups = {"config", "stack"}
    found = [(" ".join(words[: 2 if words[0] in groups else 1]), flags) for words, flags in commands("pulumi")]
    assert len(found) > 20
    unknown = [(name, flag) for name, flags in found for flag in flags if not re.search(rf"{flag}\b", help_of(name))]
    assert unknown == []
