"""docs/settings.md: what a stack may set, as settings.py states it."""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import settings
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
    meanings = dict(_docstrings())
    for key, setting in SETTINGS.items():
        default = as_text(setting.default)
        shown = f"`{default}`" if default else ""
        secret = " (secret)" if setting.accepts.secret else ""
        yield f"| `{key}` | {shown} | {setting.words} | {meanings[setting.name]}{secret} |"


def _docstrings() -> Iterator[tuple[str, str]]:
    """Each field of settings.py with the docstring below it."""
    for node in ast.walk(ast.parse(Path(settings.__file__).read_text())):
        for field, text in pairwise(node.body) if isinstance(node, ast.ClassDef) else ():
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                    yield name, " ".join(meaning.split()).removesuffix(".")
