from local import resources
from local.program import ROOT


def test_the_page_of_resources_is_the_one_that_is_printed() -> None:
    assert (ROOT / "docs" / "resources.md").read_text() == resources.page()
