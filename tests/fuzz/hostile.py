"""Values that no engine writes where it writes others, and JSON with one of them in it."""

import json
import math
import random
from typing import Any

HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    0.5,
    -0.0,
    2**31,
    2**32,
    2**53,
    2**63,
    2**200,
    -(2**63),
    1e300,
    math.inf,
    math.nan,
]
HOSTILE += ["", "x", "ff", "\ud800", [], [1], {}, {"a": 1}, [[[[]]]], "adagrad", "bpr"]


def forged_json(text: bytes, rng: random.Random) -> bytes:
    """JSON with one thing in it replaced, lost or added; sometimes no JSON at all."""
    if rng.random() < 0.1:
        return rng.choice([b"", b"{", b"null", b"[" * 50_000, b"\xff\xfe", b"1e999", b"{}", text + text])
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):  # another forger was here
        return text
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            visit(node[key])

    visit(tree)
    if not places:
        return json.dumps(rng.choice(HOSTILE)).encode()
    node, key = rng.choice(places)
    how = rng.random()
    if how < 0.75:
        node[key] = rng.choice([*HOSTILE, *([node[key] + 1, node[key] - 1] if type(node[key]) is int else [])])
    elif how < 0.9:
        del node[key]
    elif isinstance(node, dict):
        node[rng.choice(["new", "", "seed", "lr"])] = rng.choice(HOSTILE)
    return json.dumps(tree).encode()
