from docs.pages.__main__ import pages


def test_every_generated_page_is_up_to_date() -> None:
    stale = [path.name for path, page in pages().items() if path.read_text() != page]
    assert stale == [], "regenerate them: .venv/bin/python -m docs.pages"
