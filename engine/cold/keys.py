"""Keys of the cold tier: every table's first byte, once, and how the other bytes are made. FORMAT.md has the bytes."""

Pair = tuple[bytes, bytes]  # key and value

META = 0  # the state of an epoch, by name
USERS = 1
ITEMS = 2
HISTORY = 3  # of users, in chunks
CHANGES = 4  # lists of what the last epochs wrote; a compacted file has none
HIDDEN = 5  # ids of items, with empty rows

MOST_CHUNKS = 16  # of one id
CHUNK_KEY_BYTES = 10


def chunk_key(table: int, id: int, chunk: int) -> bytes:
    """The key of one chunk: table and chunk 0..255, id any int64."""
    return bytes([table]) + (id + (1 << 63)).to_bytes(8, "big") + bytes([chunk])


def meta_key(name: str) -> bytes:
    """The key of one metadata item."""
    return bytes([META]) + name.encode()
