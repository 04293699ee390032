"""The service: what the writer learned, every worker answers; a bad request is refused and loses nothing."""

import json
import urllib.error
import urllib.request

import pytest
from programs import program

pytest.importorskip("fastapi", reason="needs the extra 'examples'")
pytest.importorskip("uvicorn", reason="needs the extra 'examples'")

ADDRESS = r"running on (http://127\.0\.0\.1:\d+)"


def ask(url, body=None):
    """(status, answer) of a request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def test_what_the_writer_learned_is_answered_by_readers(home):
    with program("fastapi_service", "writer", "--path", home, "--port", 0) as writer:
        learns = writer.wait_for(ADDRESS)[1]
        with program("fastapi_service", "readers", "--path", home, "--port", 0, "--workers", 2) as readers:
            answers = readers.wait_for(ADDRESS)[1]
            readers.wait_for("startup complete")
            readers.wait_for("startup complete")
            assert ask(f"{learns}/events", {"users": [7, 7, 8], "items": [100, 101, 100]}) == (200, {"seq": 3})
            status, refused = ask(f"{learns}/events", {"users": [7], "items": [-1]})
            assert (status, "items" in refused["detail"]) == (422, True)
            assert ask(f"{learns}/events", {"users": [7, 8], "items": [100]})[0] == 422
            assert ask(f"{learns}/events", {"users": [8], "items": [102]}) == (200, {"seq": 4})
            writer.stop()  # which writes the last epoch, so that no reader is behind
            for _ in range(8):  # of both workers
                assert ask(f"{answers}/users/8") == (200, {"items": [101], "seq": 4})
                assert ask(f"{answers}/users/12345?k=2")[1]["seq"] == 4
                assert sorted(ask(f"{answers}/items/100")[1]["items"]) == [101, 102]
            assert ask(f"{answers}/items/999")[0] == 404
            assert ask(f"{answers}/users/8?k=0")[0] == 422
