import re
import subprocess
from pathlib import Path

import pytest
import yaml

from local.program import ROOT
from settings import SETTINGS

README = ROOT / "README.md"
DOCS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]
    for link in links:
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"\W+", "-", each.lower()) for each in headings], link


def test_every_setting_that_is_set_exists_and_is_encrypted_if_it_is_a_secret() -> None:
    secret = {"--secret": True, "--path": False, "": False}
    pages = "".join(page.read_text() for page in DOCS)
    commands = re.findall(r"^\$ pulumi config set (--secret|--path)? ?'?(\w[\w:]*)", pages, re.MULTILINE)
    assert len(commands) > 10
    assert [
        key for flag, key in commands if key != "gcp:project" and SETTINGS[key].accepts.secret != secret[flag]
    ] == []


def test_the_readme_links_to_every_page() -> None:
    links = set(re.findall(r"\]\(([^)#]+)\)", README.read_text()))
    assert {str(page.relative_to(ROOT)) for page in DOCS if page != README} - links == set()


def test_the_readme_is_read_in_four_minutes() -> None:
    assert len(README.read_text().split()) <= 900


def test_make_help_lists_every_target_that_the_pages_name() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    named = {name for page in DOCS for name in re.findall(r"`make (\w+)", page.read_text())}
    assert {"local", "test", "bench"} <= named
    assert {name for name in named if not re.search(rf"^make {name} +\w", listed, re.MULTILINE)} == set()


def test_make_local_installs_neither_linters_nor_type_checker_nor_tests() -> None:
    commands = subprocess.run(
        ["make", "--dry-run", "local"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    [(uv, options)] = re.findall(r"^(\S+) sync --locked --quiet --inexact (.*)$", commands, re.MULTILINE)
    export = [uv, "export", "--locked", "--quiet", "--no-hashes", *options.split()]
    packages = set(re.findall(r"^[\w.-]+", subprocess.check_output(export, cwd=ROOT, text=True), re.MULTILINE))
    assert {"aiohttp", "pulumi-gcp"} <= packages
    assert packages & {"ruff", "mypy", "pytest", "hypothesis", "zizmor", "check-jsonschema"} == set()


def test_dependabot_updates_every_project_of_the_repository() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    updated = {
        (update["package-ecosystem"], folder.strip("/"))
        for update in updates
        for folder in update.get("directories", [update.get("directory")])
    }
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    manifests = {"uv.lock": "uv", "Dockerfile": "docker", "package.json": "npm", "go.mod": "gomod", "pom.xml": "maven"}
    files = [path.rpartition("/") for path in tracked if not path.startswith(".ci/")]
    found = {(manifests[name], folder) for folder, _, name in files if name in manifests}
    assert updated == {*found, ("github-actions", ""), ("github-actions", ".github/actions/stack")}
