"""Which implementations are alive on this machine, and why the others are not.

The only importer of `_native`, and the only reader of the environment. Knows nothing of rows or files.
"""

from . import _native as native

__all__ = ["native"]
