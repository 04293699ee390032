"""The service: what the writer learned, every worker answers; a bad request is refused and loses nothing."""

import json
import shlex
import urllib.error
import urllib.request

import pytest
from pages import ROOT, blocks
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
            assert ask(f"{answers}/items/999") == (404, {"detail": "items: 999 has no row"})
            assert ask(f"{answers}/users/8?k=0")[0] == 422
            assert ask(f"{answers}/users/-1") == (422, {"detail": "users: got -1, wanted an int64 but not -1"})
            assert ask(f"{answers}/users/{2**64}")[0] == 422
            assert ask(f"{answers}/items/-1")[0] == 422


def test_the_commands_of_the_page_get_the_answers_of_the_page(home):
    """Its curl lines, asked one after the other; each block of JSON has the answers to the lines above it."""
    found = blocks(ROOT / "docs" / "recipes" / "fastapi-service.md")
    lines = [
        shlex.split(row) for kind, text, _ in found if kind == "sh" for row in text.replace("\\\n", "").splitlines()
    ]
    asked = [words for words in lines if words[0] == "curl"]
    wanted = [json.loads(row) for kind, text, _ in found if kind == "json" for row in text.splitlines()]
    with program("fastapi_service", "writer", "--path", home, "--port", 0) as writer:
        learns = writer.wait_for(ADDRESS)[1]
        with program("fastapi_service", "readers", "--path", home, "--port", 0, "--workers", 2) as readers:
            ports = {"localhost:8001": learns, "localhost:8000": readers.wait_for(ADDRESS)[1]}
            readers.wait_for("startup complete")
            readers.wait_for("startup complete")
            said = []
            for words in asked:
                where, path = words[-1].split("/", 1)
                body = json.loads(words[2]) if words[1] == "-d" else None
                said.append(ask(f"{ports[where]}/{path}", body)[1])
                if body:
                    writer.stop()  # which writes the epoch that one would wait for
    assert said == wanted
