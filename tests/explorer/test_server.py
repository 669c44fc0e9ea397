"""The server over a real socket: its page, pictures, and everything that it refuses."""

import http.client
import io
import json
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.explorer import server as serving
from hyperdecode.explorer.asked import LARGEST_REQUEST, read_asked
from hyperdecode.explorer.server import explorer_app, listening, uvicorn_server
from tests.explorer.scenes import scene

TOKEN = "token-of-the-test"


@contextmanager
def running(there):
    """Serve a scene; yields the port."""
    with listening(0) as sock:
        port = sock.getsockname()[1]
        server = uvicorn_server(explorer_app(there, TOKEN, port))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def there(tiny_generator):
    return scene(tiny_generator)


@pytest.fixture(scope="module")
def port(there):
    with running(there) as number:
        yield number


def ask(port, method="GET", path=f"/{TOKEN}/", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def picture(port, fields, **headers):
    return ask(port, "POST", f"/{TOKEN}/picture", json.dumps(fields), **headers)


def test_the_page_and_all_that_it_loads_are_there(port):
    answer, page = ask(port)
    assert answer.status == 200 and answer.getheader("Content-Type").startswith("text/html")
    assert b"http://" not in page and b"https://" not in page, "nothing from elsewhere"
    for name, kind in (
        ("explorer.js", "text/javascript"),
        ("controls.js", "text/javascript"),
        ("explorer.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ):
        answer, content = ask(port, path=f"/{TOKEN}/{name}")
        assert answer.status == 200 and answer.getheader("Content-Type").startswith(kind) and content
    assert json.loads(ask(port, path=f"/{TOKEN}/scene.json")[1])["title"] == "tiny"


def test_every_answer_carries_the_policy(port):
    for path in (f"/{TOKEN}/", f"/{TOKEN}/nothing", "/"):
        answer, _ = ask(port, path=path)
        policy = answer.getheader("Content-Security-Policy")
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.getheader("Referrer-Policy") == "no-referrer" and answer.getheader("Cache-Control") == "no-store"
        assert answer.getheader("Access-Control-Allow-Origin") is None and answer.getheader("Server") is None


def test_a_picture_over_http_is_the_scenes_own(port, there):
    fields = {"subject": "sub-01", "face": 1, "share": 0.5, "attributes": {"smile": 1.0}, "side": 64}
    answer, png = picture(port, fields, Origin=f"http://127.0.0.1:{port}", Sec_Fetch_Site="same-origin")
    expected, scores = there.picture(read_asked(json.dumps(fields).encode()))
    assert answer.status == 200 and answer.getheader("Content-Type") == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), expected)
    assert json.loads(answer.getheader("Scores")) == pytest.approx(scores, abs=1e-5)


def test_pictures_on_disk(port):
    for what, grey in (("shown", 41), ("decoded", 201)):
        answer, jpeg = ask(port, path=f"/{TOKEN}/look/sub-01/1/{what}")
        assert answer.getheader("Content-Type") == "image/jpeg"
        assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) - grey).max() <= 2
    assert ask(port, path=f"/{TOKEN}/look/sub-01/2/shown")[0].status == 422
    assert ask(port, path=f"/{TOKEN}/look/sub-01/1/other")[0].status == 404
    assert ask(port, path=f"/{TOKEN}/look/..%2F..%2Fetc/0/shown")[0].status in (404, 422)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", ""])
def test_another_host_is_refused(port, host):
    answer, text = ask(port, Host=host.format(port=port))
    assert answer.status == 403 and b"another host" in text


def test_the_two_names_of_this_computer_are_hosts(port):
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert ask(port, Host=host)[0].status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_another_origin_is_refused(port, origin):
    for path in ("picture", "scene.json"):
        answer, text = ask(port, "POST", f"/{TOKEN}/{path}", '{"side": 64}', Origin=origin.format(port=port))
        assert answer.status == 403 and b"another origin" in text


def test_another_site_is_refused_but_for_a_link(port):
    assert ask(port, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image")[0].status == 403
    assert ask(port, Sec_Fetch_Site="same-site")[0].status == 403
    assert ask(port, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe")[0].status == 403
    assert ask(port, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document")[0].status == 200


@pytest.mark.parametrize(
    "path", ["/", "/scene.json", "//scene.json", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/scene.json", f"/x/{TOKEN}/"]
)
def test_without_the_token_there_is_nothing(port, path):
    answer, text = ask(port, path=path)
    assert answer.status == 404 and b"no such page" in text


def test_requests_of_a_wrong_size_are_refused(port):
    assert ask(port, "POST", f"/{TOKEN}/picture", "x" * (LARGEST_REQUEST + 1))[0].status == 413
    assert ask(port, "POST", f"/{TOKEN}/picture", Content_Length="99999999999999999999")[0].status in (400, 413)
    parts = iter([b'{"side"', b": 64}"])
    assert ask(port, "POST", f"/{TOKEN}/picture", parts)[0].status == 411, "one in chunks says no length"


def test_a_body_in_chunks_beside_a_length_is_refused(port):
    head = f"POST /{TOKEN}/picture HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 12\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(head.encode() + b'Transfer-Encoding: chunked\r\n\r\nc\r\n{"side": 64}\r\n0\r\n\r\n')
        assert b" 4" in raw.recv(4096).splitlines()[0], "its end is not where the length says"


def test_requests_that_ask_for_what_there_is_not_get_one_line(port):
    for fields in ({"side": 64, "share": 2}, {"side": 63}, {"side": 64, "subject": "sub-09"}, {"side": 64, "more": 1}):
        answer, content = picture(port, fields)
        assert answer.status == 422 and set(json.loads(content)) == {"error"}
    assert ask(port, path=f"/{TOKEN}/picture")[0].status == 405


def test_newest_request_wins(tiny_generator, monkeypatch):
    there = scene(tiny_generator)
    begun, go = [], threading.Event()
    own = serving._drawn

    def slow(scene, asked):
        begun.append(asked.seed)
        assert go.wait(20)
        return own(scene, asked)

    monkeypatch.setattr(serving, "_drawn", slow)
    with running(there) as port:
        found = {}

        def draw(seed):
            found[seed] = picture(port, {"side": 16, "seed": seed})[0].status

        threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
        for seed, thread in enumerate(threads):
            thread.start()
            until = time.monotonic() + 10
            while seed and time.monotonic() < until and len(found) < seed - 1:
                time.sleep(0.01)
            time.sleep(0.1)
        assert found == {1: 204, 2: 204}
        go.set()
        for thread in threads:
            thread.join(20)
    assert found == {0: 200, 1: 204, 2: 204, 3: 200} and begun == [0, 3]


def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1:{number} \(.+\): give another --port"):
            listening(number)


def test_it_listens_on_this_computer_alone():
    with listening(0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
