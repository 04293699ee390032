"""`import rowtide` is `import engine`: one package, one object of each module, under two names.

A project may have an `engine` of its own, which `import engine` then finds. There the package is loaded from the
folder beside this one, as `rowtide` alone, and `engine` stays the project's. So no module of the package may import
`engine` by name.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, spec_from_loader
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import BusyError as BusyError
    from engine import ConfigError as ConfigError
    from engine import CorruptionError as CorruptionError
    from engine import DeviceError as DeviceError
    from engine import Engine as Engine
    from engine import EngineError as EngineError
    from engine import Explanation as Explanation
    from engine import IngestReport as IngestReport
    from engine import InputError as InputError
    from engine import PositionError as PositionError
    from engine import Reader as Reader
    from engine import ReadOnlyError as ReadOnlyError
    from engine import StorageFullError as StorageFullError
    from engine import TopK as TopK
    from engine import UnknownIdError as UnknownIdError
    from engine import VerifyReport as VerifyReport
    from engine import __version__ as __version__
    from engine import evaluate as evaluate
    from engine import open as open
    from engine import verify as verify

# Another thread that imports rowtide now waits for the end of this import, and gets what stands in sys.modules then.
_this = sys.modules.pop(__name__)

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "engine")


def _engine_is_ours() -> bool:
    """Whether `import engine` gives the package beside this one."""
    try:
        found = find_spec("engine")
    except ValueError:  # what is registered as `engine` has no spec: a test double, say
        return False
    folders = (found.submodule_search_locations if found else None) or ()
    return os.path.realpath(_PACKAGE) in map(os.path.realpath, folders)


def _original(name: str) -> str:
    return "engine" + name.removeprefix("rowtide")


def _register() -> None:
    """Every module of the package that is loaded gets its second name.

    Were it left to the finder, the import system would set the module as an attribute of its package once more, over
    a function of that name.
    """
    for name, module in list(sys.modules.items()):
        in_package = name == "engine" or name.startswith("engine.")
        if in_package and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            sys.modules["rowtide" + name.removeprefix("engine")] = module


class _SecondName(MetaPathFinder, Loader):
    """Finds rowtide.x where engine.x is, and loads it as engine.x."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("rowtide."):
            return None
        if (found := find_spec(_original(fullname))) is None:
            return None
        package = found.submodule_search_locations is not None
        return spec_from_loader(fullname, self, origin=found.origin, is_package=package)

    def exec_module(self, module: ModuleType) -> None:
        """`module` is an empty one; the import system returns what stands in its place afterwards."""
        name = module.__name__
        sys.modules[name] = importlib.import_module(_original(name))
        _register()

    def get_code(self, fullname: str) -> CodeType | None:
        """For `python -m`."""
        found = find_spec(_original(fullname))
        loader: Any = found.loader if found else None
        code: CodeType | None = loader.get_code(_original(fullname)) if loader else None
        return code


if _engine_is_ours():
    _engine = importlib.import_module("engine")
    vars(_this)["__getattr__"] = partial(getattr, _engine)  # for a thread that took it before it was popped
    sys.meta_path.insert(0, _SecondName())
    _register()
else:
    sys.modules[__name__] = _this
    __file__ = os.path.join(_PACKAGE, "__init__.py")
    __path__[:] = [_PACKAGE]
    __loader__ = SourceFileLoader(__name__, __file__)
    __loader__.exec_module(_this)
