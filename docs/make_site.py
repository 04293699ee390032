"""Builds these pages as a site: `make docs` runs `python docs/make_site.py site`.

The pages are plain Markdown and read well as they are. For the site they are copied to build/pages, together with every
file that they link to, at the same places, so that links stay as they are. The navigation is docs/README.md: its
headings and its links, in order. A comment `<!-- docstrings: engine.open -->` becomes the docstring of that name, read
from the source without an import.

Whatever is wrong ends the build: a warning of the site's tool, a link to nowhere, a docstring that is not there.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "README.md"

CODE = re.compile(r"^```.*?^```", re.M | re.S)
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#]+)(?:#[^)]*)?\)")
DOCSTRINGS = re.compile(r"^<!-- docstrings: ([\w.]+) -->$", re.M)

CONFIG = """\
[project]
site_name = "Rowtide"
site_description = "An online-learning engine that serves what it learned in the next request."
docs_dir = "pages"
site_dir = "site"
use_directory_urls = false
nav = [
{nav}]

[project.theme]
font = false
features = ["navigation.footer", "navigation.indexes", "content.code.copy", "search.highlight"]

[project.plugins.mkdocstrings.handlers.python]
paths = [{root}]

[project.plugins.mkdocstrings.handlers.python.options]
docstring_options = {{ warn_unknown_params = false, warn_missing_types = false }}
docstring_section_style = "list"
filters = ["!^_"]
extensions = [{extension}]
heading_level = 3
inherited_members = true
members_order = "source"
separate_signature = true
show_bases = false
show_root_heading = true
show_source = false
show_symbol_type_heading = true
"""


def targets(page: Path) -> list[tuple[str, Path]]:
    """(text, file) of each relative link of a page. ValueError for a folder, which a site cannot show."""
    found = []
    for text, link in LINK.findall(CODE.sub("", page.read_text())):
        if "://" not in link:
            target = (page.parent / link).resolve()
            if not target.is_file():
                raise ValueError(f"{page.relative_to(ROOT)}: {link} is not a file")
            found.append((text, target))
    return found


def linked() -> list[Path]:
    """README.md, every page of docs/, and every file that one of them leads to."""
    waiting, found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], []
    while waiting:
        file = waiting.pop(0)
        if file not in found:
            found.append(file)
            waiting += [target for _, target in targets(file)] if file.suffix == ".md" else []
    return found


def navigation() -> list[tuple[str, list[tuple[str, str]]]]:
    """(section, its pages as (title, path)) in the order of docs/README.md; only pages have a place in it."""
    sections, seen = [], set()
    for part in re.split(r"^## ", CODE.sub("", INDEX.read_text()), flags=re.M)[1:]:
        pages = []
        for text, link in LINK.findall(part):
            target = (INDEX.parent / link).resolve()
            if target.suffix == ".md" and target not in seen:
                seen.add(target)
                pages.append((text[0].upper() + text[1:], str(target.relative_to(ROOT))))
        sections.append((part.splitlines()[0], pages))
    return sections


def stage(pages: Path) -> list[str]:
    """Copies what the site is made of; returns the names whose docstrings it shows."""
    shutil.rmtree(pages, ignore_errors=True)
    names = []
    for file in linked():
        copy = pages / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            names += DOCSTRINGS.findall(file.read_text())
            copy.write_text(DOCSTRINGS.sub(r"::: \1", file.read_text()))
        else:
            shutil.copyfile(file, copy)
    return names


def config() -> str:
    """For a folder with the pages in `pages`; the site comes beside them."""
    quoted = json.dumps  # a string of JSON is one of TOML
    nav = '  {"Rowtide" = "README.md"},\n  {"All pages" = "docs/README.md"},\n'
    for section, found in navigation():
        inside = ", ".join(f"{{{quoted(title)} = {quoted(path)}}}" for title, path in found)
        nav += f"  {{{quoted(section)} = [{inside}]}},\n"
    return CONFIG.format(root=quoted(str(ROOT)), extension=quoted(str(ROOT / "docs" / "doctest_blocks.py")), nav=nav)


def main(site: Path) -> None:
    build = ROOT / "build"
    names = stage(build / "pages")
    file = build / "site.toml"
    made = build / "site"  # the tool takes names below its configuration alone
    file.write_text(config())
    shutil.rmtree(made, ignore_errors=True)
    tool = Path(sys.executable).with_name("zensical")
    if subprocess.run([tool, "build", "--strict", "--clean", "--config-file", file]).returncode:
        sys.exit("docs: the site was not built")
    html = "".join(page.read_text() for page in made.rglob("*.html"))
    if missing := [name for name in names if f'id="{name}"' not in html]:
        sys.exit(f"docs: no docstring on the site for {', '.join(missing)}")
    shutil.rmtree(site, ignore_errors=True)
    made.rename(site)
    print(f"docs: {site / 'index.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
