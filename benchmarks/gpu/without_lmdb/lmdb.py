"""Stands in where lmdb is not installed, so that the kernels can be imported: nothing that opens a directory works."""
