"""What the tests of sources share."""

import importlib

import pytest


@pytest.fixture
def small_calls(monkeypatch):
    """Blocks and calls of 16 rows."""
    for module in ("engine.evaluate.prequential", "engine.sources.files"):
        monkeypatch.setattr(importlib.import_module(module), "CALL_ROWS", 16)
