from pathlib import Path

import pytest

from docs.pages.__main__ import PAGES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_generated_page_is_up_to_date(path: Path) -> None:
    assert path.read_text() == PAGES[path](), "regenerate it: .venv/bin/python -m docs.pages"
