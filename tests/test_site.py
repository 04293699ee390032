"""What the site is made of: the pages, what they link to, and a navigation in the order of docs/README.md."""

import importlib.util
import tomllib
from pathlib import Path

import pytest
from pages import ROOT


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location("make_site", ROOT / "docs" / "make_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_one_place_in_the_navigation(made):
    paths = [path for _, found in made.navigation() for _, path in found]
    assert len(set(paths)) == len(paths)
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")} - {"docs/README.md"}
    assert pages <= set(paths)


def test_the_navigation_is_in_the_order_of_the_index(made):
    index = (ROOT / "docs" / "README.md").read_text()
    sections = [section for section, _ in made.navigation()]
    assert sections[:4] == ["Guide", "Recipes", "Operations", "Reference"]
    for section, found in made.navigation():
        places = [index.index(f"({Path('..', path) if path[:4] != 'docs' else path[5:]}") for _, path in found]
        assert places == sorted(places), section


def test_what_pages_link_to_is_there(made, tmp_path):
    names = made.stage(tmp_path / "pages")
    assert {"engine.open", "engine.Engine", "engine.Reader", "engine.verify", "engine.evaluate.prequential"} <= {*names}
    for page in (tmp_path / "pages").rglob("*.md"):
        for link in made.LINK.findall(made.CODE.sub("", page.read_text())):
            assert "://" in link[1] or (page.parent / link[1]).is_file(), (page.name, link)
    assert "::: engine.open\n" in (tmp_path / "pages" / "docs" / "reference" / "api.md").read_text()


def test_the_configuration_is_toml(made):
    project = tomllib.loads(made.config())["project"]
    assert project["nav"][0] == {"Rowtide": "README.md"}
    assert [next(iter(part)) for part in project["nav"][2:]] == [section for section, _ in made.navigation()]


def test_a_link_to_a_folder_is_refused(made, monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[results](.)\n")
    monkeypatch.setattr(made, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="not a file"):
        made.targets(page)
