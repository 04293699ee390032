"""Learns a table of SQL that grows, each row once, also rows that are committed late and also through crashes.

    python examples/sql_polling.py --path purchases --database sqlite:///shop.db

A row gets its id when it is inserted, and can be seen when it is committed. So row 8 may show before row 7. Who asks
for "ids above the last" then never sees row 7. Here the position is a watermark and the ids above it that were learned:
everything above the watermark is looked at again. Needs the extra `examples`: sqlalchemy.
"""

import argparse
import json
import time

import sqlalchemy as sql

import engine

EVENTS = sql.Table(
    "events",
    sql.MetaData(),
    sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("user_id", sql.BigInteger, nullable=False),
    sql.Column("item_id", sql.BigInteger, nullable=False),
)
SOURCE = "sql:events"
OVERLAP = 1_000  # ids that may be given out while one transaction is open; a row that is later than that is lost
MOST = 10_000  # rows learned in one call


def learn_next(database: sql.Engine, eng: engine.Engine, overlap: int = OVERLAP) -> int:
    """Learns rows that were not learned yet; returns how many."""
    watermark, learned = position(eng)
    rows = sql.select(EVENTS).where(EVENTS.c.id > watermark).order_by(EVENTS.c.id).limit(MOST + len(learned))
    with database.connect() as connection:
        new = [row for row in connection.execute(rows) if row.id not in learned]
    if not new:
        return 0
    learned |= {row.id for row in new}
    watermark = max(watermark, max(learned) - overlap)
    stored = json.dumps([watermark, sorted(number for number in learned if number > watermark)])
    # Rows and position are one record of the log: after a crash both are there, or neither.
    eng.ingest([row.user_id for row in new], [row.item_id for row in new], position=(SOURCE, stored.encode()))
    return len(new)


def position(eng: engine.Engine) -> tuple[int, set[int]]:
    """The watermark, and the ids above it that were learned."""
    watermark, learned = json.loads(eng.position(SOURCE) or b"[0, []]")
    return watermark, set(learned)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--path", required=True)
    options.add_argument("--database", required=True, help="a URL of SQLAlchemy")
    options.add_argument("--seconds", type=float, default=1.0, help="between two looks")
    given = options.parse_args()
    database = sql.create_engine(given.database)
    if not sql.inspect(database).has_table(EVENTS.name):
        raise SystemExit(f"sql_polling: {given.database} has no table {EVENTS.name!r}; make it first")
    with engine.open(given.path) as eng:
        while True:
            if learn_next(database, eng):
                print(f"seq {eng.seq}", flush=True)
            else:
                time.sleep(given.seconds)


if __name__ == "__main__":
    main()
