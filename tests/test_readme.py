"""README is a front page: short, with an example of ten lines that runs and prints what it says."""

import re

from pages import ROOT, blocks, run

README = ROOT / "README.md"


def test_the_front_page_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 120] == []


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ((_, printed, said),) = run(README, tmp_path)
    assert printed == said
    assert (tmp_path / "shop" / "log").is_dir()
    ((example, _),) = [(text, line) for language, text, line in blocks(README) if language == "python"]
    assert example.count("\n") <= 12


def test_there_is_one_table_of_numbers():
    numbers = README.read_text().split("## Numbers\n")[1].split("\n## ")[0]
    assert len(re.findall(r"^\|-", numbers, re.M)) == 1
