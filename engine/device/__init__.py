"""A GPU in front of the store: which rows it holds, how it learns and ranks them, and when they are copied."""
