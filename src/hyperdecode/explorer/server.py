"""The explorer's server: its page, what it can show, pictures on demand; on this computer alone."""

from __future__ import annotations

import io
import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import resources

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from hyperdecode.errors import UserError
from hyperdecode.explorer.asked import Asked, read_asked
from hyperdecode.explorer.guard import Guard
from hyperdecode.explorer.newest import NewestWins, Superseded
from hyperdecode.explorer.scene import DecodedFaces, Scene

__all__ = ["HOST", "explorer_app", "listening", "new_token", "serve", "uvicorn_server"]

HOST = "127.0.0.1"
PAGE = {
    "/": ("index.html", "text/html"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/explorer.css": ("explorer.css", "text/css"),
    "/explorer.js": ("explorer.js", "text/javascript"),
    "/controls.js": ("controls.js", "text/javascript"),
}
LOOKS = ("shown", "decoded")
THUMBNAIL = 256
"""Pixels of the side of the pictures beside the large one."""
MOST_AT_ONCE = 32
"""Connections; a page needs six."""
LAST_SECONDS = 3
"""That a picture under way may take after Ctrl-C."""


def explorer_app(scene: Scene, token: str, port: int) -> ASGIApp:
    """Return the application that answers the page.

    Parameters
    ----------
    scene : Scene
    token : str
        First part of every path.
    port : int
        That it is reached by: other ones are refused.

    Returns
    -------
    ASGI application
        ``GET /TOKEN/``, ``scene.json``, ``look/SUBJECT/FACE/(shown|decoded)`` and ``POST picture`` (JSON of `Asked`):
        a PNG, 204 where a newer request came first, 422 with ``{"error": ...}`` for what there is not.
    """
    draw = NewestWins[Asked, tuple[bytes, dict[str, str]]](lambda asked: _drawn(scene, asked))

    async def described(_: Request) -> Response:
        return JSONResponse(scene.description())

    async def picture(request: Request) -> Response:
        asked = read_asked(await request.body())
        scene.check(asked)
        try:
            png, about = await draw(asked)
        except Superseded:
            return Response(status_code=204)
        return Response(png, media_type="image/png", headers=about)

    async def look(request: Request) -> Response:
        asked = request.path_params
        if asked["what"] not in LOOKS:
            raise HTTPException(404)
        faces = scene.face(asked["subject"], asked["face"])
        return Response(
            await run_in_threadpool(_thumbnail, faces, asked["face"], asked["what"]), media_type="image/jpeg"
        )

    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=422)

    routes = [
        *(Route(path, _page(name, kind)) for path, (name, kind) in PAGE.items()),
        Route("/scene.json", described),
        Route("/picture", picture, methods=["POST"]),
        Route("/look/{subject}/{face:int}/{what}", look),
    ]
    app = Starlette(routes=routes, exception_handlers={UserError: refused})
    app.router.redirect_slashes = False  # it would lead to a path without the token
    return Guard(app, token, port)


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_urlsafe(24)


def listening(port: int) -> socket.socket:
    """Return a socket that listens on 127.0.0.1; port 0 takes any that is free.

    Raises
    ------
    UserError
        When the port is taken, or may not be used.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # there it would let two servers share a port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((HOST, port))
        found.listen(MOST_AT_ONCE)
    except OSError as error:
        found.close()
        raise UserError(
            f"cannot listen on {HOST}:{port} ({error.strerror}): give another --port, or none to take any that is free"
        ) from None
    return found


def uvicorn_server(app: ASGIApp) -> uvicorn.Server:
    """Return uvicorn's server of an application, with nothing in it that the explorer has no use for."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_AT_ONCE,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    return uvicorn.Server(config)


def serve(scene: Scene, port: int, announce: Callable[[str], None]) -> None:
    """Serve the explorer until Ctrl-C.

    Parameters
    ----------
    scene : Scene
    port : int
        0 takes any that is free.
    announce : callable
        Called with the address once it can be opened.

    Raises
    ------
    UserError
        When the port is taken.
    """
    with listening(port) as there:
        number, token = int(there.getsockname()[1]), new_token()
        server = uvicorn_server(explorer_app(scene, token, number))
        announce(f"http://{HOST}:{number}/{token}/")
        # uvicorn ends in good order and then passes the interrupt on.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[there])


def _page(name: str, kind: str) -> Callable[[Request], Response]:
    content = (resources.files("hyperdecode.explorer") / "page" / name).read_bytes()
    return lambda _: Response(content, media_type=kind)


def _drawn(scene: Scene, asked: Asked) -> tuple[bytes, dict[str, str]]:
    """Make a picture as a PNG, with what the page says of it."""
    start = time.perf_counter()
    picture, scores = scene.picture(asked)
    taken = 1000 * (time.perf_counter() - start)
    stream = io.BytesIO()
    # Not compressed: that would take longer than the way, which ends on this computer.
    Image.fromarray(picture).save(stream, "PNG", compress_level=0)
    return stream.getvalue(), {"Milliseconds": f"{taken:.0f}", "Scores": json.dumps(scores)}


def _thumbnail(faces: DecodedFaces, face: int, what: str) -> bytes:
    image = Image.fromarray(faces.look(face, what))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()
