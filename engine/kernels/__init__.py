"""The arithmetic of the engine: arrays in, arrays out.

No state, no files, no threads of its own, and nothing of ids: rows are named by their slot. Each folder is one kernel.
Its `__init__` checks what came and picks an implementation; its `reference` is the same in plain numpy, and the truth.
Any thread may call any kernel; who writes a slab while others read it is the caller's to order. See README.md.
"""
