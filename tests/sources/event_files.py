"""A hundred made-up events, and files of them, for the tests of sources."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from engine.sources.files import Columns

NAMES = Columns("user", "item")


def write(path, data):
    table = pa.table(data)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=7)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(r, default=str) + "\n" for r in table.to_pylist()))
    return path


def events(n=100):
    rng = np.random.default_rng(5)
    user, item = rng.integers(0, 9, n).tolist(), rng.integers(0, 20, n).tolist()
    user[3], user[4], item[5], item[n - 1] = None, -1, -1, None
    kind = rng.choice(["purchase", "view", "it's"], n).tolist()
    kind[7] = None
    return {
        "user": user,
        "item": item,
        "kind": kind,
        "qty": rng.integers(-3, 9, n).tolist(),
        "price": rng.uniform(0, 5, n).round(2).tolist(),
        "ts": sorted(rng.integers(0, 500, n).tolist()),
        "basket": [f"b{i // 3}" for i in range(n)],
    }
