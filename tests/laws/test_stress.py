"""One writer and eight readers for a while: no torn row, no error, and each reader sees what was acknowledged before.

The planted invariant. Every event is (user n, item n mod ITEMS) with weight 0, so vectors keep what they were born
with, and a row's only step is its first. `score`s are known beforehand, then, from an engine that learned the same
stream alone: whatever a reader is told about a user that exists must be exactly that. A second phase learns in earnest;
there each answer must be one that some moment of the same stream gives, learned event by event.
A few seconds in `make test`; `make stress` runs a minute.
"""

import threading
import time

import numpy as np
import pytest
from killed import kill

import engine
from engine.kernels.score_topk import score_topk
from engine.table.layout import vector_floats, warm_row_bytes

READERS = 8
SECONDS = [2.0, pytest.param(60.0, marks=pytest.mark.heavy)]


class Crew:
    """Threads that run until told, a round at least; the first exception of any of them is raised at the end."""

    def __init__(self, *works):
        self.done, self.failures, self.rounds = threading.Event(), [], [0] * len(works)
        self.threads = [threading.Thread(target=self.run, args=(n, work)) for n, work in enumerate(works)]

    def run(self, n, work):
        try:
            while not self.done.is_set():
                work()
                self.rounds[n] += 1
        except BaseException as e:
            self.failures.append(e)
            self.done.set()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        while not all(self.rounds) and not self.done.wait(0.001):
            pass
        self.done.set()
        for thread in self.threads:
            thread.join()
        if self.failures:
            raise self.failures[0]
        assert min(self.rounds) > 0


@pytest.mark.parametrize("seconds", SECONDS)
def test_rows_come_and_go_whole(home, seconds):
    """Far more users than RAM holds: slots are used again, the index grows and shrinks, epochs end all the while."""
    options = {"dim": 64, "loss": "bpr", "negatives": 1, "seed": 3, "batch_size": 8}
    items, users = 500, 20_000
    with engine.open(":memory:", **options) as alone:
        alone.ingest(np.arange(users), np.arange(users) % items, weights=np.zeros(users))
        born = alone.vectors(np.arange(users))
        taste = alone.vectors(items=np.arange(items)).astype(np.float64)
    room = warm_row_bytes(vector_floats(64, "adagrad")) * users // 5 * 16 // 7
    with engine.open(home, **options, warm_bytes=room, epoch_seconds=0.5) as eng:
        acknowledged, rng = [0], np.random.default_rng(0)

        def write():
            start = acknowledged[0]
            if start < users:
                stop = min(users, start + 200)
                which = np.arange(start, stop)
            else:  # all are known: they come back into RAM in any order
                which = rng.integers(0, users, 200)
            report = eng.ingest(which, which % items, weights=np.zeros(len(which)), durable=False)
            assert report.new_users == max(0, min(users, start + 200) - start)
            acknowledged[0] = max(start, min(users, start + 200))

        def reader(seed):
            rng = np.random.default_rng(seed)

            def read():
                known = acknowledged[0]
                if known < 200:
                    return
                who = rng.integers(0, known, 3)
                np.testing.assert_array_equal(eng.vectors(who), born[who])
                shown = min(items, known)
                found = eng.topk(who, 10, unknown="raise", exclude_seen=True)
                assert found.seq >= known
                assert not (found.ids == (who % items)[:, None]).any()
                exact = (born[who, None, :].astype(np.float64) * taste[found.ids]).sum(axis=2)
                np.testing.assert_allclose(found.scores, exact, rtol=0, atol=1e-6)
                best = np.sort(np.delete(taste[:shown] @ born[who[0]].astype(np.float64), who[0] % items))[::-1]
                assert (found.scores[0] >= best[:10] - 1e-6).all()

            return read

        with Crew(write, *(reader(n) for n in range(READERS))) as crew:
            ends = time.monotonic() + 120
            crew.done.wait(seconds)
            # Under a sanitizer, on a busy machine, that is too short.
            while not (seen := both_happened(eng)) and time.monotonic() < ends and not crew.done.is_set():
                crew.done.wait(0.5)
        assert seen


def both_happened(eng):
    """Did rows leave RAM, and did epochs end?"""
    stats = eng.stats()
    return stats["users"]["evicted"] > 0 and stats["epochs"] > 0


@pytest.mark.parametrize("seconds", SECONDS)
def test_answers_are_of_moments_of_the_stream(seconds):
    """Each score seen is one of a user's vector and an item's, both as some event of the stream left them."""
    options = {"dim": 1024, "loss": "bpr", "negatives": 2, "seed": 3, "lr": 1.0}
    events, users, items = 150, 3, 4
    u, i = np.arange(events) % users, np.arange(events) % items
    warm = 12
    states = []
    with engine.open(":memory:", **options) as steps:
        for event in range(events):
            steps.ingest(u[event], i[event])
            if event >= warm - 1:
                rows = steps.vectors(range(users)), steps.vectors(items=range(items))
                biases = steps.topk(vectors=np.zeros(1024), k=items)
                states.append((*rows, biases.scores[np.argsort(biases.ids)]))
        digest = steps.digest()
    seen = {user: {v[0][user].tobytes() for v in states} for user in range(users)}
    queries = np.stack([v[0] for v in states]).reshape(-1, 1024)
    vectors = np.stack([v[1] for v in states]).reshape(-1, 1024)
    found = score_topk(
        queries, vectors, np.stack([v[2] for v in states]).reshape(-1), np.arange(len(vectors)), len(vectors)
    )
    legal = set(found[1].reshape(-1).tolist())
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with engine.open(":memory:", **options) as eng:
            eng.ingest(u[:warm], i[:warm])
            acknowledged = [warm]

            def write(eng=eng, acknowledged=acknowledged):
                start = acknowledged[0]
                stop = min(events, start + 23)
                acknowledged[0] = eng.ingest(u[start:stop], i[start:stop]).seq

            def read(eng=eng, acknowledged=acknowledged):
                least = acknowledged[0]
                found = eng.topk(range(users), items)
                assert found.seq >= least
                assert (np.sort(found.ids, axis=1) == np.arange(items)).all()
                assert set(found.scores.reshape(-1).tolist()) <= legal
                for user, vector in enumerate(eng.vectors(range(users))):
                    assert vector.tobytes() in seen[user]

            with Crew(write, *[read] * READERS) as crew:
                while acknowledged[0] < events and not crew.done.wait(0.001):
                    pass
            assert eng.digest() == digest


@pytest.mark.parametrize("seconds", SECONDS)
def test_two_writers_have_one_order(home, seconds):
    """Their calls are records of one log: learned again from it, whole, they give the same digest."""
    options = {"dim": 8, "loss": "bpr", "negatives": 2, "batch_size": 4}
    seqs: list[list[tuple[int, int]]] = [[], []]
    with engine.open(home, **options, epoch_seconds=1e9) as eng:

        def writer(which):
            rng = np.random.default_rng(which)

            def write():
                n = int(rng.integers(1, 40))
                report = eng.ingest(rng.integers(0, 300, n), rng.integers(0, 200, n), durable=bool(rng.integers(2)))
                seqs[which].append((report.seq - n, report.seq))
                assert eng.topk(1).seq >= report.seq

            return write

        with Crew(writer(0), writer(1)) as crew:
            crew.done.wait(seconds)
        digest, total = eng.digest(), eng.seq
        kill(eng)
    spans = sorted(seqs[0] + seqs[1])
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == total
    assert all(part == sorted(part) for part in seqs)
    with engine.open(home) as eng:
        assert (eng.seq, eng.digest()) == (total, digest)
        assert eng.stats()["opening"]["replayed_events"] == total
