"""What the engine refuses, in the words of the command line: options and operands in place of Python's arguments.

Pure functions. A message begins with the arguments that it is about, as `contract/arguments.py` says; what names none
of the command's stays as it is.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_ABOUT = re.compile(r"(?P<names>[a-z_]+(?:, [a-z_]+)*)(?=(?:\[[\d, ]+\])?: )")

# Arguments of Python, and the parameter of a command that they come from where its name is another.
_FROM = {"users": "user", "items": "item", "values": "value", "timestamps": "time", "path": "directory"}
_FROM |= {"dst": "target", "out": "folder"}


def in_words_of(commands: Mapping[str, Any], words: Sequence[str], text: str) -> str:
    """`text` on one line, for the command that stands among `words`; `commands`: those that there are, by name."""
    text = " ".join(text.split())
    command = next((commands[word] for word in words if word in commands), None)
    about = _ABOUT.match(text)
    if command is None or about is None:
        return text
    known = {parameter.name: _typed(parameter) for parameter in command.params}
    names = about["names"].split(", ")
    said = ", ".join(known.get(name) or known.get(_FROM.get(name)) or name for name in names)
    return said + text[about.end() :]


def _typed(parameter: Any) -> str:
    """As one types it: an option with its dashes, an operand as the usage line has it."""
    if parameter.param_type_name == "option":
        return str(parameter.opts[0])
    return str(parameter.metavar or parameter.name).strip("[]").upper()
