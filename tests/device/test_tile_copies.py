"""The copies of tiles and their order, on streams that run when they like: what a GPU may do, without one.

What is launched is kept in its stream's queue, and a random choice of what events allow says when it runs.
"""

import random
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.device import tiles

DIM = 8


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiles of 64 items."""
    monkeypatch.setattr(tiles, "TILE_BYTES", 64 * tiles.item_bytes(DIM))


class Streams:
    """As torch.cuda, as far as tiles use it. What is launched waits in its stream's queue; `random` says when it runs.

    `without`: a method of events that does nothing.
    """

    def __init__(self, seed, eager, without=None):
        self.random = random.Random(seed)
        self.eager = eager  # stream that runs first, or None
        self.queues = []
        self.current = self.Stream()
        streams = self

        class Event:
            def __init__(self):
                self.recorded = self.done = 0

            def record(self):
                self.recorded += 1
                streams.launch(lambda n=self.recorded: setattr(self, "done", n))

            def wait(self):
                n = self.recorded
                if without != "wait":
                    streams.launch(None, lambda: self.done >= n)

            def synchronize(self):
                while self.done < self.recorded and without != "synchronize":
                    assert streams.step(), "a deadlock"

        self.Event = Event

    def Stream(self):
        self.queues.append([])
        return self.queues[-1]

    @contextmanager
    def stream(self, queue):
        self.current, before = queue, self.current
        yield
        self.current = before

    def launch(self, run, ready=lambda: True):
        self.current.append((run, ready))
        while self.random.random() < 0.4:
            self.step()

    def step(self):
        can = [n for n, queue in enumerate(self.queues) if queue and queue[0][1]()]
        if can:
            run, _ = self.queues[self.eager if self.eager in can else self.random.choice(can)].pop(0)
            if run:
                run()
        return bool(can)


class Lazy:
    """A tensor that is copied to when its stream comes to it."""

    def __init__(self, tensor, streams):
        self.tensor, self.streams, self.nbytes = tensor, streams, tensor.nbytes

    def __getitem__(self, part):
        return Lazy(self.tensor[part], self.streams)

    def numpy(self):
        return self.tensor.numpy()

    def copy_(self, other, non_blocking):
        assert non_blocking
        self.streams.launch(lambda: self.tensor.copy_(other.tensor))


def tiles_seen(monkeypatch, seed, eager, without=None):
    """Whether everything that was launched on a tile saw the tile, in two calls after one that was given up."""
    streams = Streams(seed, eager, without)
    real = tiles.room
    monkeypatch.setattr(tiles, "room", lambda *args, **_: tuple(Lazy(x, streams) for x in real(torch, *args[1:])))

    def fill(first, vectors, biases, ids):
        vectors[:] = biases[:, None] = ids[:, None] = call * 1000 + np.arange(first, first + len(ids))[:, None]

    made = tiles.Tiles(SimpleNamespace(fake=streams), SimpleNamespace(type="fake"), DIM, fill)
    seen = []
    for call in range(3):
        for block in made.blocks(64, 64 * 6 + 5):

            def look(block=block, call=call):
                wanted = call * 1000 + torch.arange(block.first, block.first + len(block.ids.tensor))
                vectors = wanted[:, None].float().expand(-1, tiles.padded(DIM))
                seen.append((torch.equal(block.ids.tensor, wanted), torch.equal(block.vectors.tensor, vectors)))

            streams.launch(look)
            if call == 0 and block.first > 64 * 3:
                break
    while streams.step():
        pass
    assert len(seen) == 4 + 6 + 6
    monkeypatch.setattr(tiles, "room", real)
    return all(map(all, seen))


@pytest.mark.parametrize("eager", [None, 0, 1], ids=["random", "ranking first", "copies first"])
def test_no_tile_is_seen_before_its_copy_nor_after_the_next(monkeypatch, eager):
    for seed in range(100):
        assert tiles_seen(monkeypatch, seed, eager)


@pytest.mark.parametrize("without", ["synchronize", "wait"])
def test_without_waiting_one_would_be(monkeypatch, without):
    assert not all(tiles_seen(monkeypatch, seed, None, without) for seed in range(20))


def test_the_next_tile_is_copied_beside_the_ranking(monkeypatch):
    streams, ranked = Streams(0, 1), []
    real = tiles.room
    monkeypatch.setattr(tiles, "room", lambda *args, **_: tuple(Lazy(x, streams) for x in real(torch, *args[1:])))
    made = tiles.Tiles(
        SimpleNamespace(fake=streams),
        SimpleNamespace(type="fake"),
        DIM,
        lambda first, vectors, biases, ids: ids.fill(first),
    )
    blocks = made.blocks(64, 64 * 4)
    monkeypatch.setattr(streams, "launch", lambda run, ready=lambda: True: streams.current.append((run, ready)))
    next(blocks)
    streams.launch(lambda: ranked.append(1), lambda: False)  # the first tile's ranking takes for ever
    second = next(blocks)
    while streams.step():
        pass
    assert not ranked
    assert second.ids.tensor.tolist() == [128] * 64
