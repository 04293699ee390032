"""Learns a stream of Redis, each entry once, also through crashes.

    python examples/redis_stream.py --path stream --stream clicks

The engine keeps the id of the last entry beside what it learned from it, in one record of its log. So there is no
consumer group and nothing to acknowledge: after a crash the engine itself says where to go on. Needs the extra
`examples`: redis.
"""

import argparse
import os

import redis

import engine

MOST = 1_000  # entries of one call: one record, one fsync


def learn_next(client: redis.Redis, eng: engine.Engine, stream: str, wait_ms: int = 1_000) -> int:
    """Learns what comes next, waiting for it if need be; returns how many entries were read."""
    source = f"redis:{stream}"
    last = eng.position(source) or b"0-0"  # 0-0: from the first entry on
    found = client.xread({stream: last}, count=MOST, block=wait_ms)
    if not found:
        return 0
    ((_, entries),) = found
    events = [event for event in map(event_of, entries) if event is not None]
    users, items = zip(*events, strict=True) if events else ((), ())
    eng.ingest(users, items, position=(source, entries[-1][0]))  # also where nothing of it could be learned
    return len(entries)


def event_of(entry: tuple[bytes, dict[bytes, bytes]]) -> tuple[int, int] | None:
    """User and item of an entry; None for one that is no event, so that it cannot stop the stream for ever."""
    entry_id, fields = entry
    try:
        user, item = int(fields[b"user"]), int(fields[b"item"])
        if all(-(2**63) <= number < 2**63 and number != -1 for number in (user, item)):
            return user, item
    except (KeyError, ValueError):
        pass
    print(f"skipped {entry_id.decode()}: {fields}", flush=True)
    return None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--path", required=True)
    options.add_argument("--stream", required=True)
    options.add_argument("--url", default=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
    given = options.parse_args()
    with redis.Redis.from_url(given.url, protocol=2) as client, engine.open(given.path) as eng:
        while True:
            if learn_next(client, eng, given.stream):
                print(f"seq {eng.seq}", flush=True)


if __name__ == "__main__":
    main()
