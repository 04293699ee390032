"""Opening: from the arguments of `engine.open` to an Engine, or to a Reader. Any thread."""

import shutil
from typing import Any

from .contract.arguments import choice, describe, flag
from .contract.errors import ConfigError
from .contract.settings import Settings
from .directory import untrusted
from .directory.directory import MEMORY, Directory, checked_path
from .engine import Engine
from .machine.resources import Resources
from .reader import Reader
from .store.tables import require_capacity


def open_engine(
    path: Any, mode: str, given: dict[str, Any], resources: dict[str, Any], is_untrusted: bool = False
) -> Engine | Reader:
    """`engine.open`, whose arguments these are; `given` holds the settings, None where not given."""
    choice("mode", mode, ("r", "a", "x"), ConfigError)
    if flag("untrusted", is_untrusted, ConfigError):
        return _open_untrusted(path, mode, given, resources)
    if isinstance(path, str) and path == MEMORY:
        if mode == "r":
            raise ConfigError("mode: got 'r', but ':memory:' is never in another process")
        if resources["warm_bytes"] is not None:
            raise ConfigError(
                f"warm_bytes: got {describe(resources['warm_bytes'])}, but ':memory:' keeps all rows in RAM"
            )
        if mode == "x":
            raise ConfigError("mode: got 'x', but ':memory:' is always new")
        settings = Settings.resolve(given, None)
        return Engine(None, settings, Resources.check(**resources), given)
    if mode == "r" and (resources["device"] == "cuda" or resources["hot_bytes"] is not None):
        raise ConfigError(
            "device, hot_bytes: wanted neither with mode 'r', for a reader keeps no rows and ranks on the CPU"
        )
    checked = Resources.check(**resources)
    Settings.resolve(given, None, whole=False)  # bad values are refused before anything is made
    if mode == "r":
        if resources["warm_bytes"] is not None:
            raise ConfigError(f"warm_bytes: got {describe(resources['warm_bytes'])}, but mode 'r' keeps no rows in RAM")
        return Reader.open(checked_path(path), given, checked.threads)
    directory = Directory.open(
        checked_path(path),
        mode,
        given,
        lambda settings: _require_capacity(settings, checked),
        checked.device,
    )
    try:
        return Engine(directory, directory.state.settings, checked, given)
    except BaseException:
        directory.close()
        raise


def _require_capacity(settings: Settings, resources: Resources) -> None:
    """Raises ConfigError for a new directory whose micro-batches need more rows than there is room for."""
    if resources.device != "cpu":
        settings.require_device()
    require_capacity(settings, resources.warm_bytes)
    if resources.hot_bytes is not None:
        from .device.device import require_hot_room  # here, because it imports torch and Triton
        from .device.hot import hot_capacity

        require_hot_room(settings, hot_capacity(settings.dim, settings.optimizer, resources.hot_bytes))


def _open_untrusted(path: Any, mode: str, given: dict[str, Any], resources: dict[str, Any]) -> Engine | Reader:
    if mode == "x" or (isinstance(path, str) and path == MEMORY):
        raise ConfigError("untrusted: got True, but there is nothing to check in what is made anew")
    copy = untrusted.private_copy(checked_path(path))
    try:
        opened = open_engine(copy, mode, given, resources)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    opened._temporary = True
    opened._at_end.callback(shutil.rmtree, copy, ignore_errors=True)
    return opened
