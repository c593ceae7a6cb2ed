"""Write every generated page: `python -m docs.pages`."""

import re
from pathlib import Path

from docs.pages import cost, settings_table, stack

DOCS = Path(__file__).resolve().parents[1]


def pages() -> dict[Path, str]:
    """Every generated page and what it should contain."""
    costs, marked = DOCS / "cost.md", re.compile(r"(<!-- generated .*? -->\n).*?(\n<!-- end)", re.DOTALL)
    return {
        DOCS / "settings.md": settings_table.page(),
        costs: marked.sub(lambda match: match[1] + cost.table() + match[2], costs.read_text()),
        **{DOCS / "stacks" / f"{name}.md": stack.page(name) for name in ("dev", "prod")},
    }


if __name__ == "__main__":
    for path, page in pages().items():
        path.write_text(page)
