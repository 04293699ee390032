"""Engines that are broken on purpose are broken: what a sabotage replaces is there."""

import ast
import importlib
from pathlib import Path


def test_a_sabotage_replaces_what_is_there(monkeypatch):
    """What has moved leaves a sabotage that breaks nothing, and a crash test that cannot fail."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    sabotage = importlib.import_module("engine_sabotage")
    assigned = [
        target
        for node in ast.walk(ast.parse(Path(sabotage.__file__).read_text()))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and ast.unparse(target).split(".")[0] in vars(sabotage)
    ]
    assert len(assigned) > 20
    missing = []
    for target in assigned:
        try:
            eval(ast.unparse(target), vars(sabotage))
        except AttributeError:
            missing.append(ast.unparse(target))
    assert missing == []
