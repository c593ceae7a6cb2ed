"""docs/settings.md: what a stack may set, as settings.py states it."""

from collections.abc import Iterator

from settings import SETTINGS, as_text

PAGE = """\
# Settings

Set one with `pulumi config set KEY VALUE`, or in `Pulumi.<stack>.yaml` as `cloud-run-tasks:KEY`. A secret needs
`--secret`, an item of a list `--path 'KEY[0]'`. All settings are checked before anything is deployed.

{table}

This page is generated from [settings.py](../settings.py) by `.venv/bin/python -m docs.pages`.
"""


def page() -> str:
    return PAGE.format(table="\n".join(_rows()))


def _rows() -> Iterator[str]:
    yield "| setting | default | accepts | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, setting in SETTINGS.items():
        default = as_text(setting.rule.default)
        shown = f"`{default}`" if default else ""
        yield f"| `{key}` | {shown} | {setting.accepts} | {setting.rule.meaning} |"
