"""Explaining: the parts of a score, by what the user has had.

For somebody who asks why an item is in a list. The parts are worked out anew, from what the ranking reads. Any thread.
"""

from typing import Any, NamedTuple

from ..contract.arguments import describe, ids_or_one
from ..contract.arrays import Floats
from ..contract.errors import InputError
from ..contract.reports import Explanation
from ..table.layout import biases_of, vectors_of
from .context import moments
from .filters import newest_last
from .ranker import Rankable, require_history, require_rows


class Why(NamedTuple):
    """The arguments of `explain`, as they came."""

    user: Any
    items: Any
    at: Any
    session: Any
    history: Any


def explain(source: Rankable, asked: Why) -> list[Explanation]:
    """`Engine.explain`."""
    users, one = ids_or_one("user", asked.user)
    if not one:
        raise InputError(f"user: got {describe(asked.user)}, wanted one id")
    items, _ = ids_or_one("items", asked.items)
    sequence, dim = source.sequence, source.catalogue.dim
    when = moments(asked.at, asked.session, 1)
    require_history(asked.history, sequence)
    newest = None if asked.history is None else newest_last("history", asked.history, 1)[0]
    known, rows = source.users.peek(users)
    user: Floats = vectors_of(rows, dim)[0] if known[0] else source.mean
    base = source.base + (float(biases_of(rows, dim)[0]) if known[0] else 0.0)
    out = []
    with source.catalogue.held():
        ordinals = source.catalogue.ordinals(items)
        require_rows("items", items, ordinals >= 0)
        looks = None
        if sequence:
            more, offsets = (newest.ids, newest.offsets) if newest else (None, None)
            looks = sequence.look([source.history.entries(int(users[0]))], more, offsets, when)
            found, sources = source.items.peek(looks.sources)
        for item, own, bias in zip(items.tolist(), *source.catalogue.read(ordinals), strict=True):
            alpha, bag, had, near = 1.0, {}, 0.0, {}
            if looks and sequence:
                alpha, ids, weights, had, near_ids, near_parts = looks.parts(
                    item, found, sources, sequence.neighbours_at
                )
                there = source.catalogue.ordinals(ids)
                vectors, _ = source.catalogue.read(there[there >= 0])
                bag = dict(zip(ids[there >= 0].tolist(), (weights[there >= 0] * (vectors @ own)).tolist(), strict=True))
                near = {of: part for of, part in zip(near_ids.tolist(), near_parts.tolist(), strict=True) if part}
            parts = (alpha * float(user @ own), base + float(bias), had, *bag.values(), *near.values())
            out.append(Explanation(item, sum(parts), parts[0], parts[1], bag, had, near))
    return out
