"""`make fuzz SECONDS=60`: mutates for a stated time and ends with status 1 if anything came of it that may not.

A quarter of the time goes to check_pages (tests/native/fuzz_pages.cpp, guided by branches, under AddressSanitizer and
UBSan), a tenth to the record decoder, the rest to whole directories of each kind: accidents, forgeries, both to a
directory that is not trusted, and forgeries beside a reader, in turn, judged by two processes, one of which runs the
sanitized core. A case is a function of its seed: `run.py SECONDS SEED` repeats it. What failed is kept under
build/fuzz/.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from unittest.mock import patch

import numpy as np
from native import sanitized

from engine.contract.errors import EngineError
from engine.log.encoding import (
    HEADER_BYTES,
    decode_record,
    encode_record,
    is_whole,
    parse_header,
    require_readable,
)
from engine.log.parts import COLUMNS, ColumnType, Ragged
from engine.log.record import Record, require_sound

from .cases import judged
from .forged_logs import _records, sealed
from .mutators import TELLING, data_file, segments
from .subject import KINDS, Judge, Subject, copy_of

KEPT = sanitized.folder(sanitized.ADDRESS).parent / "fuzz"


def fuzz_pages(seconds: float, seed: int, subjects: list[Path]) -> list[str]:
    command = [sanitized.program(sanitized.ADDRESS, "fuzz_pages"), str(seconds), str(seed), *map(str, subjects)]
    run = subprocess.run(
        command,
        env=sanitized.environment(sanitized.ADDRESS, python=False),
        cwd=KEPT,
        text=True,
        capture_output=True,
        check=False,
        timeout=seconds + 120,
    )
    print(run.stdout, end="", flush=True)
    return [f"check_pages: status {run.returncode}\n{run.stderr[-6000:]}"] if run.returncode else []


def fuzz_records(seconds: float, seed: int, files: list[Path]) -> list[str]:
    """All that reads a record, on mutated ones, half of them with a crc that is right, a tenth with named columns."""
    whole = [(at, record) for file in files for at, record in _placed(_records(file))]
    whole += [(0, with_columns(n)) for n in range(1 + len(whole) // 9)]
    until, count, decoded = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until:
        rng = random.Random(f"record/{seed}/{count}")
        count += 1
        at, record = rng.choice(whole)
        data = bytearray(record)
        for _ in range(rng.choice([1, 1, 2, 5])):
            place = rng.choice([rng.randrange(len(data)), rng.randrange(8, HEADER_BYTES)])
            size = rng.choice([1, 2, 4, 8])
            new = rng.choice([rng.randbytes(size), (rng.choice(TELLING) % 2 ** (8 * size)).to_bytes(size, "little")])
            data[place : place + size] = new
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        mutated = bytes(data) if rng.random() < 0.5 or len(data) < HEADER_BYTES else sealed(bytes(data))
        head = mutated[:HEADER_BYTES]
        try:
            header = parse_header(head, at)
            body = mutated[HEADER_BYTES : header.length] if header else b""
            if header and is_whole(header, head, body):
                require_readable(header, body)
                require_sound(decode_record(header, body))
                decoded += 1
        except EngineError:
            pass
        except Exception:
            return [f"record decoder, seed {seed}, case {count - 1}: {mutated.hex()}\n{traceback.format_exc()}"]
    print(f"fuzz_records: {count} records, {decoded} decoded", flush=True)
    return []


def with_columns(events: int) -> bytes:
    """A record with named columns, of which the engine has none of its own."""
    ids = np.arange(events, dtype=np.int64)
    offsets = np.arange(events + 1, dtype=np.uint32) * 3
    columns = {"price": np.ones(events, np.float32), "name": Ragged(offsets, np.ones(3 * events, np.uint8))}
    record = Record(1, 4, ids, ids, columns=columns)
    return encode_record(record, directory_id=1, offset=0, synced_bytes=0, synced_seq=0)


def _placed(records: list[bytes]) -> list[tuple[int, bytes]]:
    out, at = [], 0
    for record in records:
        out.append((at, record))
        at += len(record)
    return out


def fuzz_directories(until: float, seed: int, subjects: list[Subject], place: Path) -> list[str]:
    faults: list[str] = []
    counts = {"sanitized": 0, "usual": 0}

    def work(name: str, environment: dict[str, str] | None) -> None:
        try:
            search(name, environment)
        except Exception:
            faults.append(f"the search itself, {name}/{seed}/{counts[name] - 1}: {traceback.format_exc()}")

    def search(name: str, environment: dict[str, str] | None) -> None:
        with Judge(environment) as judge:
            while time.monotonic() < until and len(faults) < 20:
                n, case = counts[name], f"{name}/{seed}/{counts[name]}"
                counts[name] += 1
                subject = subjects[n % len(subjects)]
                how, fault = judged(judge, subject, place / name, n // len(subjects), random.Random(case))
                if not fault:
                    continue
                kept = KEPT / case.replace("/", "-")
                shutil.rmtree(kept, ignore_errors=True)
                again = copy_of(subject, kept)  # opening may have changed the other
                judged(None, subject, again, n // len(subjects), random.Random(case))
                faults.append(f"{case}, {how}: {fault}\nkept in {kept}")

    under = sanitized.environment(sanitized.ADDRESS)
    runs = {"sanitized": under, "usual": None}
    threads = [threading.Thread(target=work, args=run) for run in runs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"fuzz_directories: {counts['sanitized']} under sanitizers, {counts['usual']} without", flush=True)
    return faults


def main(seconds: float, seed: int) -> int:
    print(f"fuzz: {seconds:.0f} seconds, seed {seed}", flush=True)
    sanitized.build(sanitized.ADDRESS)
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subjects = [Subject(place / kind, kind) for kind in KINDS]
        began = time.monotonic()
        faults = fuzz_pages(seconds * 0.25, seed, [data_file(subject.path) for subject in subjects])
        logs = [file for subject in subjects for file in segments(subject.path)]
        with patch.dict(COLUMNS, {"price": ColumnType("<f4"), "name": ColumnType("|u1", ragged=True)}):
            faults += fuzz_records(seconds * 0.1, seed, logs)
        faults += fuzz_directories(began + seconds, seed, subjects, place)
    for fault in faults:
        print(f"\nFOUND {fault[:4000]}", flush=True)
    print(f"fuzz: {len(faults)} findings" if faults else "fuzz: nothing found")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 10**9))
