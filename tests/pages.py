"""The code on pages of documentation, run as it stands, and their prose, cut into sentences.

A `python` block runs after those before it on its page, in one folder, with the page's names. A `text` block right
after it is what it prints. A line `rowtide ...` of an `sh` block runs too. A `python` block whose first line names a
file of examples/ is an excerpt: its other lines stand in that file.
"""

import contextlib
import io
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
EXCERPT = re.compile(r"# (examples/\w+\.py)\n")
SHOWN = {"pip", "python", "redis-server", "curl"}  # commands that nobody runs here


def blocks(page):
    """(language, text, line) of every fenced block of a page."""
    text = page.read_text()
    return [(b[1], b[2], text.count("\n", 0, b.start()) + 2) for b in BLOCK.finditer(text)]


def has_code(page):
    return any(language in {"python", "sh"} for language, _, _ in blocks(page))


def run(page, folder):
    """Yields (line, what was printed, what the page says is printed) for every block that runs; `folder` is the cwd."""
    names = {"__name__": page.stem}
    found, handler = blocks(page), signal.getsignal(signal.SIGTERM)
    for at, (language, text, line) in enumerate(found):
        said = found[at + 1][1] if at + 1 < len(found) and found[at + 1][0] == "text" else None
        if language == "python" and not EXCERPT.match(text):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)
            signal.signal(signal.SIGTERM, handler)  # a page may show how to set one
            yield line, out.getvalue(), said or ""
        elif language == "sh":
            out = "".join(
                command(words, folder) for words in map(shlex.split, text.replace("\\\n", "").splitlines()) if words
            )
            yield line, out, out if said is None else said


def command(words, folder):
    """What `rowtide ...` prints; other commands must be of those that a page only shows."""
    if words[0] != "rowtide":
        assert words[0] in SHOWN, f"nobody runs {words[0]}"
        return ""
    if "#" in words:
        words = words[: words.index("#")]
    shell = [sys.executable, "-m", "engine", *words[1:]]
    done = subprocess.run(shell, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return "".join(f"{row.rstrip()}\n" for row in done.stdout.splitlines())


def strange_excerpts(page):
    """The lines of excerpts that are not in the file that they name."""
    for language, text, _ in blocks(page):
        named = EXCERPT.match(text) if language == "python" else None
        if named:
            lines = {row.strip() for row in (ROOT / named[1]).read_text().splitlines()}
            yield from (row for row in text.splitlines()[1:] if row.strip() not in lines | {"", "..."})


def sentences(text):
    """The sentences of a page as lists of words. Code is one word, a link is its text; tables and code blocks are none.

    A paragraph and a list's item end a sentence, and so do `.`, `!` and `?`, but not a colon.
    """
    text = re.sub(r"^ {4}\S.*$|^\|.*$|^#.*$|^<!--.*?-->$", "", BLOCK.sub("", text), flags=re.M)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "code", text))
    for paragraph in re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", text, flags=re.M):
        for sentence in re.split(r"(?<=[.!?])[*_)\"]*\s+", paragraph.replace("\n", " ")):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if words:
                yield words
