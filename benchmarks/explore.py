"""How long the page of the explorer waits for a picture: over HTTP, beside the same call in this process.

    python benchmarks/explore.py [--json] [--pictures 15] [--threads 2] [--generator mobilestylegan-ffhq]

Both sides make the same faces with the same number of threads, in turns within one run, so that a busy machine slows
both; reported are medians in milliseconds. Over HTTP a picture is asked for, made, packed as a PNG, sent and unpacked;
each one is compared with that of the call, pixel by pixel.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperdecode.explorer.asked import read_asked
from hyperdecode.explorer.scene import Scene
from hyperdecode.explorer.server import HOST, explorer_app, listening, new_token, uvicorn_server
from hyperdecode.generators import load_generator
from hyperdecode.pipeline.explore import generator_scene
from hyperdecode.threads import default_threads, set_threads


@contextmanager
def served(scene: Scene) -> Iterator[tuple[int, str]]:
    """Serve a scene in a thread; yields port and token."""
    with listening(0) as there:
        port, token = int(there.getsockname()[1]), new_token()
        server = uvicorn_server(explorer_app(scene, token, port))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [there]}, daemon=True)
        thread.start()
        try:
            yield port, token
        finally:
            server.should_exit = True
            thread.join()


def asked_for(connection: http.client.HTTPConnection, token: str, body: bytes) -> NDArray[np.uint8]:
    """Ask for a picture as the page does."""
    connection.request("POST", f"/{token}/picture", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"the server answered {answer.status}: {content.decode()}")
    return np.asarray(Image.open(io.BytesIO(content)))


def measure(scene: Scene, sides: list[int], n: int) -> list[dict[str, object]]:
    """Time `n` pictures of each side both ways."""
    rows: list[dict[str, object]] = []
    with served(scene) as (port, token):
        connection = http.client.HTTPConnection(HOST, port)
        for side in sides:
            times: dict[str, list[float]] = {"http": [], "call": []}
            worst = 0
            for seed in range(n + 1):
                body = json.dumps({"seed": seed, "truncation": 0.7, "side": side}).encode()
                start = time.perf_counter()
                over_http = asked_for(connection, token, body)
                middle = time.perf_counter()
                picture, _ = scene.picture(read_asked(body))
                end = time.perf_counter()
                worst = max(worst, int(np.abs(over_http.astype(int) - picture).max()))
                if seed:  # the first of a side warms up
                    times["http"].append(1000 * (middle - start))
                    times["call"].append(1000 * (end - middle))
            medians = {f"{name}_ms": round(statistics.median(values), 1) for name, values in times.items()}
            rows.append({"side": side, **medians, "largest_difference": worst})
        connection.close()
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pictures", type=int, default=15)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--generator", default="mobilestylegan-ffhq")
    options = parser.parse_args()
    set_threads(options.threads)
    scene = generator_scene(load_generator(options.generator))
    sides = [*scene.description()["previews"], scene.generator.resolution]
    rows = measure(scene, sides, options.pictures)
    if options.json:
        said = {"benchmark": "explore", "generator": options.generator, "threads": options.threads}
        json.dump(said | {"pictures": options.pictures, "sides": rows}, sys.stdout)
        print()
        return
    for row in rows:
        print("{side:>5} px: {http_ms:7.1f} ms over HTTP, {call_ms:7.1f} ms by a call".format(**row))


if __name__ == "__main__":
    main()
