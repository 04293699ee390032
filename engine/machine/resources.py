"""Resources: what decides speed and memory, never results. Checked where they are made. Any thread."""

import os
from dataclasses import dataclass
from typing import Any

from ..contract.arguments import choice, describe, number, whole_number
from ..contract.errors import ConfigError, DeviceError
from .backend import free_bytes, require_device


@dataclass(frozen=True, slots=True)
class Resources:
    """What decides speed and memory, never results; not kept."""

    device: str
    """Where rows are learned and ranked: "cpu", or "cuda", a GPU's memory in front of RAM."""
    hot_bytes: int | None
    """Memory of the device for rows; default half of what is free there. The catalogue comes on top."""
    warm_bytes: int
    """RAM for rows and histories; default half of the machine's. The catalogue comes on top."""
    epoch_seconds: float
    """How old a change may get before it is written to LMDB; default 30. Shorter: less to replay, more to write."""
    threads: int
    """Threads that rank one call to `topk`; default 1, for servers call it from many threads. Learning uses one."""

    @classmethod
    def check(cls, *, device: Any, hot_bytes: Any, warm_bytes: Any, epoch_seconds: Any, threads: Any) -> "Resources":
        device = choice("device", device, ("auto", "cpu", "cuda"), ConfigError)
        if hot_bytes is not None:
            if device != "cuda":
                given = describe(hot_bytes)
                raise ConfigError(f"hot_bytes: got {given}, but device is {device!r}; wanted it with 'cuda'")
            whole_number("hot_bytes", hot_bytes, 1, 2**62, ConfigError)
        if device == "cuda":
            _, found = require_device()
            if hot_bytes is not None and found.type == "cuda" and hot_bytes > (free := free_bytes(found)):
                raise DeviceError(f"hot_bytes: got {hot_bytes}, but the GPU has {free} bytes free")
        if warm_bytes is None:
            warm_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        return cls(
            "cuda" if device == "cuda" else "cpu",
            None if hot_bytes is None else int(hot_bytes),
            whole_number("warm_bytes", warm_bytes, 1, 2**62, ConfigError),
            number("epoch_seconds", epoch_seconds, 1e-9, 1e9, ConfigError),
            1 if threads is None else whole_number("threads", threads, 1, 1024, ConfigError),
        )
