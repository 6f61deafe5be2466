"""Memory, files and threads of serve.py, over many requests of all kinds."""

import http.client
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.retrieval.web.serving import running_serve

NUM_REQUESTS, NUM_BEFORE, NUM_CLIENTS = 20_000, 4_000, 4
MAX_GROWTH = 32 << 20  # bytes
WORDS = "casino royale open hours sale re16 tgk nothing at all \u00e9 \U0001f600".split()


def read_state(process: int) -> tuple[int, int, int]:
    """Bytes in memory, open files and threads of a process."""
    status = (Path("/proc") / str(process) / "status").read_text()
    memory, threads = (
        int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads")
    )
    return memory << 10, len(list((Path("/proc") / str(process) / "fd").iterdir())), threads


def choose_request(rng: random.Random) -> tuple[str, str, dict[str, str]]:
    """Method, address and headers of a request of any kind."""
    number = rng.choice([1, 2, 3, 4, 5, 6, 7, 99])
    video, file = f"/api/videos/{rng.randint(1, 6)}", f"/api/entries/{number}/video"
    query = "+".join(rng.choices(WORDS, k=3)).encode("ascii", "xmlcharrefreplace").decode()
    query = query.replace("&", "%26").replace("#", "%23")
    part = {"Range": f"bytes={rng.randint(0, 9999)}-{rng.randint(0, 9999)}"}
    parts = {"Range": "bytes=" + ",".join(f"{n}-{n + 9}" for n in range(0, 900, 90))}
    method, path, headers = rng.choice([
        ("GET", f"/api/search?q={query}&mode=keyword", {}), ("GET", f"/api/search?q={query}", {}),
        ("GET", f"/api/videos/search?q={query}&sort=newest", {}), ("GET", "/api/library", {}),
        ("GET", f"/api/entries/{number}", {}), ("GET", f"/api/entries/{number}/thumbnail", {}),
        ("GET", file, {}), ("GET", file, part), ("GET", file, parts), ("HEAD", file, {}),
        ("GET", file, {"If-None-Match": "*"}), ("GET", file, {"Range": "lines=1"}),
        ("GET", video, {}), ("GET", f"{video}/file.mp4", part), ("GET", "/static/app.js", {}),
        ("GET", f"{video}/frame?t={rng.randint(0, 9) / 5}", {}), ("GET", "/", {}),
        ("GET", f"{video}/segments/0.mp4", {}), ("GET", f"/api/videos/lookup?path={query}", {}),
        ("POST", "/api/search", {"Content-Type": "image/png"}),
        ("GET", "/nothing", {}), ("GET", "/api/search?k=0", {}), ("PUT", "/api/folders", {}),
        ("GET", "/api/folders", {"Host": "evil.example"}),
    ])  # fmt: skip
    if rng.random() < 0.005:
        path = f"{video}/clip?start=0&end=1"
    return method, path, headers


@pytest.mark.slow
def test_memory_is_held(street, monkeypatch, tmp_path, record_property):
    monkeypatch.setenv("TEXTVR_CACHE", str(tmp_path))
    with running_serve(street / "my.index") as (process, address):
        threading.Thread(target=process.stderr.read, daemon=True).start()

        def run_client(seed: int, number: int) -> None:
            rng = random.Random(seed)
            connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
            for _ in range(number):
                method, path, headers = choose_request(rng)
                connection.request(method, path, headers=headers)
                answer = connection.getresponse()
                assert answer.status < 500, (path, answer.status)
                if rng.random() < 0.05:  # leaves in the middle of a download
                    answer.read(1)
                    connection.close()
                else:
                    answer.read()
            connection.close()

        def send(seed: int, number: int) -> None:
            with ThreadPoolExecutor(NUM_CLIENTS) as pool:
                seeds = range(seed, seed + NUM_CLIENTS)
                list(pool.map(run_client, seeds, [number // NUM_CLIENTS] * NUM_CLIENTS))

        send(0, NUM_BEFORE)
        before = read_state(process.pid)
        send(100, NUM_REQUESTS)
        after = read_state(process.pid)
        message = f"memory, files, threads {before} -> {after}"
        assert after[0] - before[0] < MAX_GROWTH, message
        assert after[1] <= before[1] + 16 and after[2] <= before[2] + 16, message
        record_property("state", message)
