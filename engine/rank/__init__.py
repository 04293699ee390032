"""Ranking: the best items for users or vectors, with what each query excludes or includes."""
