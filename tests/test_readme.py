import re

import settings
from local.program import ROOT

README = (ROOT / "README.md").read_text()


def test_the_table_of_settings_is_the_one_that_settings_prints() -> None:
    [table] = re.findall(r"<!-- settings: .*? -->\n(.*?)\n<!-- end of settings -->", README, re.DOTALL)
    assert table == settings.table()


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
