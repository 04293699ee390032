"""What is refused, in the words of the command line."""

import pytest
from typer.main import get_command

from engine.cli.app import app
from engine.cli.refusals import in_words_of

COMMANDS = get_command(app).commands


@pytest.mark.parametrize(
    ("words", "text", "wanted"),
    [
        ("replay x", "user: got 'u'", "--user: got 'u'"),
        ("replay x", "values: got None", "--value: got None"),
        ("replay x", "file: x is not there", "FILE: x is not there"),
        ("replay x", "batch_size, negatives: got 1", "--batch-size, --negatives: got 1"),
        ("replay x", "path: got 1", "--path: got 1"),
        ("topk d -- -1", "users: got -1", "USER: got -1"),
        ("topk d 5", "k: got 0", "-k: got 0"),
        ("topk d 5", "path: got d", "DIR: got d"),
        ("backup d e", "dst: got e", "DST: got e"),
        ("info", "path: got\n  d", "DIR: got d"),
        ("profile --out p", "out: got p", "--out: got p"),
        ("replay x", "stored settings have 5", "stored settings have 5"),
        ("replay x", "/tmp/d: this process", "/tmp/d: this process"),
        ("nothing", "users: got -1", "users: got -1"),
    ],
)
def test_arguments_become_options(words, text, wanted):
    assert in_words_of(COMMANDS, words.split(), text) == wanted
