"""The stream: every entry once, wherever the consumer is killed; an entry that is no event stops nothing."""

import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from programs import load, program

import engine

redis = pytest.importorskip("redis", reason="needs the extra 'examples'")
SERVER = shutil.which("redis-server")


@contextmanager
def real_server(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def fake_server():
    fakeredis = pytest.importorskip("fakeredis", reason="needs redis-server, or fakeredis of the extra 'test'")
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


@pytest.fixture
def url(tmp_path):
    with real_server(tmp_path) if SERVER else fake_server() as port:
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture
def client(url):
    with redis.Redis.from_url(url, protocol=2) as opened:
        for _ in range(200):
            try:
                opened.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        yield opened


def add(client, users):
    """One event of each user, who has no other; so users and events count the same."""
    for user in users:
        client.xadd("clicks", {"user": user, "item": 100 + user % 7})


def test_every_entry_is_learned_once_through_kills(home, url, client):
    add(client, range(40))
    for seq in (40, 80):
        with program("redis_stream", "--path", home, "--stream", "clicks", "--url", url) as consumer:
            consumer.wait_for(rf"^seq {seq}$")
            consumer.stop(signal.SIGKILL)
        add(client, range(seq, seq + 40))
    learn_next = load("redis_stream").learn_next
    with engine.open(home) as eng:
        assert eng.seq == 80
        assert learn_next(client, eng, "clicks", wait_ms=10) == 40
        assert learn_next(client, eng, "clicks", wait_ms=10) == 0
        assert (eng.seq, eng.stats()["users"]["rows"]) == (120, 120)


def test_what_is_no_event_is_passed_over_once(client, capsys):
    example = load("redis_stream")
    for fields in ({"user": "x", "item": 1}, {"user": 1}, {"user": -1, "item": 1}, {"user": 2**63, "item": 1}):
        client.xadd("clicks", fields)
    with engine.open(":memory:", dim=8) as eng:
        assert example.learn_next(client, eng, "clicks", wait_ms=10) == 4
        assert example.learn_next(client, eng, "clicks", wait_ms=10) == 0
        add(client, [5])
        assert example.learn_next(client, eng, "clicks", wait_ms=10) == 1
        assert eng.seq == 1
    assert capsys.readouterr().out.count("skipped") == 4
