"""Worker: order, errors, ends, and what may be lost or interrupted on the way."""

import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest

from engine.contract.errors import EngineError
from engine.machine.worker import Task, Worker


@pytest.fixture
def worker():
    made = Worker("test-worker")
    yield made
    made.close()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "test-worker"]


def test_tasks_are_done_in_order_and_errors_kept(worker):
    done = []
    tasks = [Task(lambda n=n: done.append(10 // n)) for n in (5, 0, 2)]
    for task in tasks:
        worker.give(task)
    worker.drain()
    assert done == [2, 5]
    assert all(task.ended for task in tasks)
    assert [type(task.error) for task in tasks] == [type(None), ZeroDivisionError, type(None)]


def test_it_keeps_nothing_of_what_it_has_done(worker):
    class Big:
        pass

    big = Big()
    gone = weakref.ref(big)
    task = Task(lambda held=big: None)
    worker.give(task)
    worker.drain()
    del big
    worker.drain()  # it is behind the last reference of its own
    assert gone() is None


def test_an_interrupted_wait_can_be_made_again(worker, monkeypatch):
    go_on = threading.Event()
    task = Task(go_on.wait)
    worker.give(task)
    put = worker._given.put

    class Interrupting:
        def put(self, work):
            put(work)
            raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_given", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        worker.drain()
    monkeypatch.undo()
    assert not task.ended
    go_on.set()
    worker.drain()
    assert task.ended


def test_closing_waits_and_may_be_done_again():
    worker, done = Worker("test-worker"), []
    worker.give(Task(lambda: done.append(1)))
    worker.close()
    worker.close()
    worker.drain()
    assert done == [1]
    assert threads() == []
    with pytest.raises(EngineError, match="has ended"):
        worker.give(Task(list))


def test_a_lost_worker_ends_its_thread():
    worker = Worker("test-worker")
    (thread,) = threads()
    del worker
    gc.collect()
    thread.join()
    assert threads() == []


def test_without_a_thread_to_be_had(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(EngineError, match="test-worker could not be started"):
        Worker("test-worker")


def test_the_interpreter_waits_for_it_at_its_end():
    script = """
import sys, time
from engine.machine.worker import Task, Worker
worker = Worker("test-worker")
worker.give(Task(lambda: (time.sleep(0.2), print("done", flush=True))))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=os.environ)
    assert (run.stdout, run.stderr, run.returncode) == ("done\n", "", 0)
