"""One piece of work at a time, and of those who wait only the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from hyperdecode.threads import default_threads

__all__ = ["NewestWins", "Superseded"]

Job = TypeVar("Job")
Result = TypeVar("Result")


class Superseded(Exception):  # noqa: N818  (nothing went wrong)
    """A newer request came before this one's turn."""


class NewestWins(Generic[Job, Result]):
    """Do one job at a time in a thread of its own; whoever waits is dropped when a newer one comes.

    Parameters
    ----------
    work : callable
        Does a job. It uses all threads that `hyperdecode.threads.default_threads` allows, for nothing else runs beside.
    """

    def __init__(self, work: Callable[[Job], Result]) -> None:
        self._work = work
        # How many threads torch uses is set for each thread that calls it.
        self._pool = ThreadPoolExecutor(1, "picture", torch.set_num_threads, (default_threads(),))
        self._busy = False
        self._waiting: asyncio.Future[bool] | None = None

    async def __call__(self, job: Job) -> Result:
        """Do a job in its turn.

        Raises
        ------
        Superseded
            When a newer job came while this one waited.
        """
        loop = asyncio.get_running_loop()
        if self._busy:
            self._answer(False)
            self._waiting = turn = loop.create_future()
            if not await turn:
                raise Superseded
        self._busy = True
        try:
            return await loop.run_in_executor(self._pool, self._work, job)
        finally:
            self._busy = self._answer(True)

    def _answer(self, go: bool) -> bool:
        """Tell the one who waits to go on, or that it is dropped; return whether somebody was told."""
        turn, self._waiting = self._waiting, None
        if turn is None or turn.done():
            return False
        turn.set_result(go)
        return True
