"""The source as other tests read it: its files, and what each module is called and imports. Nothing is imported."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "engine"
MODULES = sorted(ENGINE.rglob("*.py"))
CORE = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".h", ".cpp", ".cu"})

KERNELS = sorted(path.name for path in (ENGINE / "kernels").iterdir() if path.is_dir() and path.name != "__pycache__")


def tree(path):
    return ast.parse(path.read_text(), str(path))


def dotted(path):
    """Of a module, from engine/ on: "cold.file", "" for the package itself."""
    parts = path.relative_to(ENGINE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_of(node, path):
    """The dotted names of an import: `engine`'s own begin with a dot."""
    if isinstance(node, ast.Import):
        return [re.sub(r"^engine(?=\.|$)", "", name.name) or "." for name in node.names]
    base = re.sub(r"^engine(?=\.|$)", "", node.module or "")
    if node.level:
        package = ("", *path.relative_to(ENGINE).parts[:-1])
        base = ".".join(package[: len(package) - node.level + 1]) + (f".{node.module}" if node.module else "")
    return [f"{base}.{name.name}" for name in node.names]


def imported(path):
    """(line, dotted name) of everything that is imported anywhere in a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, name) for name in names_of(node, path))
