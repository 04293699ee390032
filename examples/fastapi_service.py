"""A recommendation service: one process learns, any number of processes answer.

    python examples/fastapi_service.py writer --path service --port 8001
    python examples/fastapi_service.py readers --path service --port 8000 --workers 4

The writer must have made the directory before the readers start. Needs the extra `examples`: fastapi and uvicorn.
"""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import engine

PATH = "ROWTIDE_EXAMPLE_PATH"  # uvicorn starts workers anew, so they learn of the directory from the environment
EPOCH_SECONDS = 2  # readers answer as of the last epoch, so this is how far they may be behind


class Events(BaseModel):
    """Clicks, oldest first. One call is one fsync, so send many at once where you can."""

    users: list[int] = Field(min_length=1, max_length=10_000)
    items: list[int]


@asynccontextmanager
async def learning(app: FastAPI) -> AsyncIterator[None]:
    with engine.open(os.environ[PATH], epoch_seconds=EPOCH_SECONDS) as eng:
        app.state.eng = eng
        yield


@asynccontextmanager
async def reading(app: FastAPI) -> AsyncIterator[None]:
    with engine.open(os.environ[PATH], mode="r") as eng:
        app.state.eng = eng
        yield


def refused(request: Request, error: Exception) -> JSONResponse:
    """The client's error. Nothing was changed, and the client must not send it again as it is."""
    return JSONResponse({"detail": str(error)}, 404 if isinstance(error, engine.UnknownIdError) else 422)


REFUSED = {engine.InputError: refused, engine.UnknownIdError: refused}

writer = FastAPI(title="writer", lifespan=learning, exception_handlers=REFUSED)
reader = FastAPI(title="reader", lifespan=reading, exception_handlers=REFUSED)


# Plain functions, not coroutines: FastAPI runs them on its threads, and any thread may call the engine.


@writer.post("/events")
def learn(events: Events) -> dict[str, int]:
    return {"seq": writer.state.eng.ingest(events.users, events.items).seq}


@reader.get("/users/{user}")
def recommend(user: int, k: int = Query(10, ge=1, le=100)) -> dict[str, object]:
    found = reader.state.eng.topk(user, k=k, exclude_seen=True)
    return {"items": found.ids[: found.counts].tolist(), "seq": found.seq}


@reader.get("/items/{item}")
def alike(item: int, k: int = Query(10, ge=1, le=100)) -> dict[str, object]:
    found = reader.state.eng.similar(item, k=k)
    return {"items": found.ids[: found.counts].tolist(), "seq": found.seq}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("role", choices=["writer", "readers"])
    options.add_argument("--path", required=True)
    options.add_argument("--port", type=int, required=True, help="0: any that is free")
    options.add_argument("--workers", type=int, default=2, help="processes that answer")
    given = options.parse_args()
    os.environ[PATH] = given.path
    os.environ["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    if given.role == "writer":
        uvicorn.run(writer, port=given.port)
    else:
        uvicorn.run("fastapi_service:reader", port=given.port, workers=given.workers)


if __name__ == "__main__":
    main()
