"""Write every generated page: `python -m docs.pages`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.pages import cost, settings_table, stack

DOCS = Path(__file__).resolve().parents[1]
PAGES: Mapping[Path, Callable[[], str]] = {
    DOCS / "settings.md": settings_table.page,
    DOCS / "cost.md": lambda: _with_table(DOCS / "cost.md", cost.table(cost.EXAMPLES)),
    DOCS / "stacks" / "dev.md": lambda: stack.page("dev"),
    DOCS / "stacks" / "prod.md": lambda: stack.page("prod"),
}
"""What each generated page should contain."""


def _with_table(page: Path, table: str) -> str:
    """The page with this table between its markers."""
    marked = re.compile(r"(<!-- generated .*? -->\n).*?(\n<!-- end of generated -->)", re.DOTALL)
    return marked.sub(lambda match: match[1] + table + match[2], page.read_text())


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(page())
