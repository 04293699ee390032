"""Statistics: what `Engine.stats` answers, put together from the parts of an open Engine. Any thread.

Only what an operator watches; docs/operations/monitoring.md says what each key means.
"""

from typing import Any

from .writer import Writer


def stats(writer: Writer) -> dict[str, Any]:
    """By name; where there is a directory, with its files, and what syncs and epochs took."""
    store, device, directory = writer.store, writer.device, writer.directory
    tables = {table.name: table.stats() | (device.stats(table.name) if device else {}) for table in store.tables}
    out: dict[str, Any] = {
        "seq": writer.seq,
        "durable_seq": directory.log.synced_seq if directory else 0,
        "lmdb_seq": writer.epochs.saved_seq if writer.epochs else 0,
        "bit_exact": writer.bit_exact,
        "skipped_updates": writer.skipped,
        **tables,
        "device": device.name if device else "cpu",
        "catalogue_bytes": store.catalogue.bytes,
        **(device.catalogue.stats() if device else {}),
        "history_bytes": store.history.ram_bytes,
        "hidden_items": len(store.catalogue.hidden),
        "expired_rows": store.removal.expired,
    }
    if directory and writer.epochs and writer.syncer:
        lmdb = out["lmdb"] = directory.cold.stats()
        out["log_bytes"] = directory.log.bytes
        out["disk"] = {
            "live_bytes": lmdb["used_pages"] * lmdb["page_bytes"],
            "free_bytes": lmdb["free_pages"] * lmdb["page_bytes"],
            "log_bytes": directory.log.bytes,
        }
        out["sync_seconds"] = writer.syncer.seconds
        out |= writer.epochs.stats()
    return out
