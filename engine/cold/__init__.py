"""The cold tier: rows, history chunks and metadata in LMDB, in one file that is checked before it is mapped."""
