"""Readers in other processes beside a writer: every answer is exactly that of its epoch.

What each epoch answers is known beforehand, from a run in memory. The writer compacts now and then.
"""

import hashlib
import json
import subprocess
import sys
import time

import pytest

import engine

SETTINGS = {"dim": 8, "loss": "bpr", "batch_size": 4, "negatives": 2, "seed": 3}
STEP = 40  # events an epoch

READ = """
import hashlib, json, sys, threading, time, engine
path, table, seconds = sys.argv[1], json.load(open(sys.argv[2])), float(sys.argv[3])
users = table.pop("users")
wrong, seen = [], set()
with engine.open(path, mode="r") as eng:
    print("ready", flush=True)
    began = time.monotonic()
    def going():  # longer where that was too short to see enough: a sanitizer, a busy machine
        return time.monotonic() - began < (seconds if len(seen) > 25 else seconds + 60)
    def ask():
        count = 0
        while going():
            top = eng.topk(users, 10, exclude_seen=count % 2 == 1)
            got = hashlib.blake2b(top.ids.tobytes() + top.scores.tobytes(), digest_size=8).hexdigest()
            if table[str(top.seq)][1 + count % 2] != got: wrong.append(top.seq)
            seen.add(top.seq)
            count += 1
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for t in threads: t.start()
    while going():
        seq = eng.refresh()
        if eng.seq < seq: wrong.append(("back", seq))
        time.sleep(0.003)
    for t in threads: t.join()
    digest = eng.digest()
    if digest != table[str(eng.seq)][0]: wrong.append(("digest", eng.seq))
    print(json.dumps({"wrong": wrong, "seen": sorted(seen), "moves": eng.stats()["moves"]}))
"""


def views(users, items, epochs, asked):
    """seq -> digest, answers without and with exclude_seen."""
    table = {}
    with engine.open(":memory:", **SETTINGS) as eng:
        for start in range(0, (epochs + 1) * STEP, STEP):
            tops = [eng.topk(asked, 10, exclude_seen=seen) for seen in (False, True)]
            hashes = [hashlib.blake2b(t.ids.tobytes() + t.scores.tobytes(), digest_size=8).hexdigest() for t in tops]
            table[eng.seq] = [eng.digest(), *hashes]
            eng.ingest(users[start : start + STEP], items[start : start + STEP])
    return table


def run(home, tmp_path, stream, readers, seconds, epochs):
    users, items = stream((epochs + 1) * STEP, 400, 3000)
    asked = users[:60].tolist()
    table = views(users, items, epochs, asked)
    (tmp_path / "table").write_text(json.dumps({"users": asked} | table))
    command = [sys.executable, "-c", READ, home, tmp_path / "table", str(seconds)]
    with engine.open(home, **SETTINGS, epoch_seconds=1e9, warm_bytes=600_000) as eng:
        others = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(readers)]
        for other in others:
            assert other.stdout
            assert other.stdout.readline() == "ready\n"
        began, done = time.monotonic(), 0
        while any(other.poll() is None for other in others):
            if done < epochs and done / epochs <= (time.monotonic() - began) / seconds:
                eng.ingest(users[done * STEP : (done + 1) * STEP], items[done * STEP : (done + 1) * STEP])
                done += 1
                assert eng.checkpoint() == done * STEP
                if done % 25 == 0:
                    eng._directory.cold.compact()
            else:
                time.sleep(0.001)
        for other in others:
            said = other.communicate()[0]
            assert other.returncode == 0
            report = json.loads(said)
            assert report["wrong"] == []
            assert len(report["seen"]) > 20
            assert report["moves"]["followed"] > 10
            print(f"epochs {done}, seen {len(report['seen'])}, moves {report['moves']}")
        assert eng.digest() == table[eng.seq][0]
    assert engine.verify(home).seq == done * STEP


def test_two_readers_for_some_seconds(home, tmp_path, stream):
    run(home, tmp_path, stream, readers=2, seconds=2.5, epochs=150)


@pytest.mark.heavy
def test_ten_readers_for_a_minute(home, tmp_path, stream):
    run(home, tmp_path, stream, readers=10, seconds=60, epochs=2000)
