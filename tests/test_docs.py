"""What the pages point at exists: relative links with their headings, and the project's paths in code spans.

A path may be a folder or a pattern, such as `csrc/isa/lanes_*.h`. Pages of docs/ are short, and stand in their index.
Their code runs and prints what they say. Their sentences are short.
"""

import re

import pytest
from pages import ROOT, has_code, run, sentences, strange_excerpts

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]


def name_of(page):
    return str(page.relative_to(ROOT))


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)

CODE_BLOCK = re.compile(r"^```.*?^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?:engine|csrc|tests|benchmarks|docs|examples)/[\w./*-]*")
MOST_LINES, MOST_COLUMNS, MOST_WORDS = 150, 120, 25


def anchors(page):
    """What a link may name behind # in a page, after GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page):
    for link in LINK.findall(CODE_BLOCK.sub("", page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def missing_paths(page):
    for span in re.findall(r"`([^`\n]+)`", CODE_BLOCK.sub("", page.read_text())):
        for word in span.split():
            if PATH.fullmatch(word) and not any(ROOT.glob(word.rstrip("/"))):
                yield word


@pages
def test_every_link_leads_somewhere(page):
    assert list(broken_links(page)) == []


@pages
def test_every_path_exists(page):
    assert list(missing_paths(page)) == []


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_pages_are_short(page):
    lines = page.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert [line for line in lines if len(line) > MOST_COLUMNS] == []


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    assert [str(page.relative_to(ROOT)) for page in DOCS if page != index and page.resolve() not in linked] == []


@pytest.mark.parametrize("page", [page for page in PAGES if has_code(page)], ids=name_of)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for line, printed, said in run(page, tmp_path):
        assert printed == said, f"{page.name}, line {line}"


@pytest.mark.heavy
def test_pages_run_one_after_the_other_in_one_folder(tmp_path, monkeypatch):
    """A reader has one folder for all of them: README, the guide in its order, then the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    index = ROOT / "docs" / "README.md"
    in_order = [(index.parent / link).resolve() for link in LINK.findall(index.read_text()) if link.endswith(".md")]
    for page in dict.fromkeys([ROOT / "README.md", *(page for page in in_order if has_code(page))]):
        for line, printed, said in run(page, tmp_path):
            assert printed == said, f"{page.name}, line {line}"


@pages
def test_excerpts_are_of_the_examples(page):
    assert list(strange_excerpts(page)) == []


@pages
def test_sentences_are_short(page):
    long = [" ".join(words) for words in sentences(page.read_text()) if len(words) > MOST_WORDS]
    assert long == []


def test_sentences_are_told_apart():
    text = "# None\n\nOne `a b` c. Two [d e](f.md)!\n- three:\n  four\n\n| no | table |\n\n```text\nno code\n```\n"
    assert list(sentences(text)) == [["One", "code", "c."], ["Two", "d", "e!"], ["three:", "four"]]


def test_what_is_wrong_is_found(tmp_path):
    page = tmp_path / "page.md"
    links = "[a](page.md#a-page) [b](page.md#no) [c](none.md)"
    page.write_text(f"# A page\n{links} `engine/none.py` `csrc/*.none` `engine/`\n")
    assert list(broken_links(page)) == ["page.md#no", "none.md"]
    assert list(missing_paths(page)) == ["engine/none.py", "csrc/*.none"]
