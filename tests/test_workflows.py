"""The scripts in GitHub's workflows, run with stand-ins for `gh` and `pulumi`. The rest only GitHub can show."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.program import ROOT

GITHUB = ROOT / ".github"
IMAGE = f"us-central1-docker.pkg.dev/shop/images/handler@sha256:{'5' * 64}"


def script(workflow: str, step: str) -> str:
    jobs = yaml.safe_load((GITHUB / "workflows" / f"{workflow}.yml").read_text())["jobs"]
    [found] = [each["run"] for job in jobs.values() for each in job.get("steps", []) if step in each.get("name", "")]
    return str(found)


def run(script: str, folder: Path, tools: dict[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as GitHub does. `tools`: programs on the path, each a line of shell; $* are its arguments."""
    bin_ = folder / "bin"
    bin_.mkdir()
    for name, line in tools.items():
        (bin_ / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/calls\n{line}\n')
        (bin_ / name).chmod(0o755)
    variables |= {"PATH": f"{bin_}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("image", "waiting", "deployed", "refusal"),
    [
        (IMAGE, 7, 6, ""),
        (IMAGE, 0, 0, ""),
        ("", 0, 0, "dev has no output image"),
        (IMAGE, 8, 6, "Run 8 is newer"),
        (IMAGE, 7, 9, "Run 9 is newer"),
    ],
)
def test_prod_takes_no_run_without_an_image_and_none_that_is_not_the_newest(
    tmp_path: Path, image: str, waiting: int, deployed: int, refusal: str
) -> None:
    gh = f"case $* in *status=waiting*) echo {waiting} ;; *status=success*) echo {deployed} ;; esac"
    ran = run(
        script("deploy", "Refuse a run"),
        tmp_path,
        {"gh": gh},
        IMAGE=image,
        GITHUB_REPOSITORY="shop/tasks",
        GITHUB_RUN_NUMBER="7",
    )
    assert (ran.returncode != 0) is bool(refusal)
    assert refusal in ran.stdout + ran.stderr


@pytest.mark.parametrize("stack", ["dev", "prod"])
@pytest.mark.parametrize("succeeds", [True, False])
@pytest.mark.parametrize("earlier", ["", "https://api.github.com/comments/3"])
def test_a_preview_is_commented_also_if_it_fails(tmp_path: Path, stack: str, succeeds: bool, earlier: str) -> None:
    pulumi = f"case $* in *output*) echo {IMAGE} ;; *) echo wants $*; {str(succeeds).lower()} ;; esac"
    tools = {"pulumi": pulumi, "gh": f'case "$*" in *paginate*) echo "{earlier}" ;; esac'}
    ran = run(script("compare", "Preview"), tmp_path, tools, STACK=stack, COMMENTS="repos/shop/tasks/issues/1/comments")
    assert (ran.returncode == 0) is succeeds
    comment = (tmp_path / "comment").read_text()
    assert comment.startswith(f"Preview of `{stack}` {'succeeded' if succeeds else 'failed'}.\n\n```\nwants preview")
    assert (f"--config image={IMAGE}" in comment) is (stack == "prod")
    last = (tmp_path / "calls").read_text().splitlines()[-1]
    to = f"{earlier} --method PATCH" if earlier else "repos/shop/tasks/issues/1/comments --method POST"
    assert last == f"gh api {to} --silent -F body=@comment"


def steps() -> list[dict[str, Any]]:
    actions = [yaml.safe_load(path.read_text()) for path in GITHUB.glob("actions/*/action.yml")]
    workflows = [yaml.safe_load(path.read_text())["jobs"] for path in GITHUB.glob("workflows/*.yml")]
    jobs = [action["runs"] for action in actions] + [job for each in workflows for job in each.values()]
    return [step for job in jobs for step in job.get("steps", [])]


def test_every_workflow_has_the_one_version_of_pulumi_and_no_region() -> None:
    [version] = re.findall(r"pulumi/pkg/v3 v(\S+)", (ROOT / ".ci/pulumi-cli/go.mod").read_text())
    installing = [step for step in steps() if "pulumi/actions" in step.get("uses", "")]
    assert [step["with"] for step in installing] == [{"pulumi-version": version}] * len(installing)
    assert len(installing) == 2
    assert "us-central1" not in str(steps())
