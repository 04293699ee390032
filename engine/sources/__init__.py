"""Events that come from somewhere else: files of columns so far. Needs the extra `cli` (pyarrow); `import engine`
does not come here."""
