"""One job at a time; the newest of those who wait."""

import asyncio
import threading

import pytest

from hyperdecode.explorer.newest import NewestWins, Superseded


class Gate:
    """Work that waits until it is let go, and remembers what it was given."""

    def __init__(self):
        self.begun, self.go, self.running, self.most = [], threading.Semaphore(0), 0, 0

    def __call__(self, job):
        self.begun.append(job)
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.go.acquire(timeout=10)
        self.running -= 1
        if job == "bad":
            raise ValueError(job)
        return job.upper()

    async def until_begun(self, n):
        for _ in range(1000):
            if len(self.begun) == n:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(self.begun)


def test_of_those_who_wait_the_newest_goes_on_and_the_others_hear_at_once():
    async def story():
        gate = Gate()
        draw = NewestWins(gate)
        first = asyncio.create_task(draw("a"))
        await gate.until_begun(1)
        waiting = [asyncio.create_task(draw(name)) for name in "bcd"]
        await asyncio.sleep(0.05)
        for task in waiting[:2]:
            with pytest.raises(Superseded):
                task.result()
        assert not first.done() and not waiting[2].done(), "who was dropped hears so while the first still runs"
        gate.go.release(2)
        assert await first == "A" and await waiting[2] == "D"
        assert gate.begun == ["a", "d"] and gate.most == 1
        gate.go.release()
        assert await draw("e") == "E"

    asyncio.run(story())


def test_an_error_of_one_job_stays_with_it():
    async def story():
        gate = Gate()
        draw = NewestWins(gate)
        bad = asyncio.create_task(draw("bad"))
        await gate.until_begun(1)
        good = asyncio.create_task(draw("good"))
        gate.go.release(2)
        with pytest.raises(ValueError, match="bad"):
            await bad
        assert await good == "GOOD"

    asyncio.run(story())


def test_one_who_left_while_waiting_does_not_hold_up_the_next():
    async def story():
        gate = Gate()
        draw = NewestWins(gate)
        first = asyncio.create_task(draw("a"))
        await gate.until_begun(1)
        gone = asyncio.create_task(draw("b"))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        gate.go.release(2)
        assert await first == "A" and await draw("c") == "C"
        assert gate.begun == ["a", "c"]

    asyncio.run(story())
