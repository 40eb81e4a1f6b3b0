"""math-verify in worker processes, with a hard limit for each answer.

math-verify sets `signal.alarm`, so it fails in threads and cancels the caller's alarm, and an answer such as
9^{9^{9^9}} runs in C code that no signal handler interrupts. So it runs in processes of its own. They are plain
subprocesses, not `multiprocessing` children: those are forbidden to daemons, import the caller's `__main__` again, or
fork a process that has threads.
"""

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

CPU_SECONDS = 5.0
# For a worker that waits instead of computing; otherwise time on the CPU decides, so a busy machine changes nothing.
WALL_SECONDS = 60.0
_START_SECONDS = 300.0
_WORKER = Path(__file__).with_name("worker.py")


class _Worker:
    """One process, and the number of the pair it works on."""

    def __init__(self, cpu_seconds: float) -> None:
        # -P: the directory of worker.py does not shadow modules. A session of its own: Ctrl-C is for the caller.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(cpu_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.ready = False
        self.index: int | None = None
        self.deadline = time.monotonic() + _START_SECONDS

    def send(self, index: int, pair: tuple[str, str], wall_seconds: float) -> None:
        """Gives the worker a pair; a worker that has died is noticed at its output."""
        assert self.process.stdin is not None
        self.index = index
        if self.ready:
            self.deadline = time.monotonic() + wall_seconds
        try:
            self.process.stdin.write(json.dumps(pair).encode() + b"\n")
        except BrokenPipeError:
            return

    def receive(self) -> bytes:
        """One byte of the worker's output; none when it has ended."""
        assert self.process.stdout is not None
        return os.read(self.process.stdout.fileno(), 1)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class AnswerPool:
    """Compares pairs of answers in processes that start when first needed and stay for the next call.

    Args:
        size: most workers.
        cpu_seconds: time on the CPU that one comparison may take.
        wall_seconds: time on the clock that one comparison may take.
    """

    def __init__(
        self, *, size: int | None = None, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = WALL_SECONDS
    ) -> None:
        self._size = size or min(8, os.cpu_count() or 1)
        self._cpu_seconds, self._wall_seconds = cpu_seconds, wall_seconds
        self._forget()

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether each (gold, answer) is equal, in order; None where that took too long. Safe in threads."""
        with self._lock:
            try:
                return self._compare(pairs)
            except BaseException:
                self._close()  # the workers' answers belong to nobody now
                raise

    def close(self) -> None:
        """Ends the workers. The pool can be used again."""
        with self._lock:
            self._close()

    def forget(self) -> None:
        """After a fork: the workers are the parent's."""
        for worker in self._workers:
            for pipe in (worker.process.stdin, worker.process.stdout):
                assert pipe is not None
                pipe.close()
            worker.process.returncode = 0  # or Popen would warn of a process that is not this one's child
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []

    def _close(self) -> None:
        while self._workers:
            self._workers.pop().close()

    def _compare(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        results: list[bool | None] = [None] * len(pairs)
        waiting = deque(enumerate(pairs))
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._drop(worker)
        while True:
            idle = [worker for worker in self._workers if worker.index is None]
            while waiting and (idle or len(self._workers) < self._size):
                if not idle:
                    idle.append(_Worker(self._cpu_seconds))
                    self._workers += idle
                idle.pop().send(*waiting.popleft(), self._wall_seconds)
            busy = [worker for worker in self._workers if worker.index is not None]
            if not busy:
                return results
            self._receive(busy, results)

    def _receive(self, busy: list[_Worker], results: list[bool | None]) -> None:
        """Waits until a worker says something, ends, or is over its time; the last two lose their place in the pool."""
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            ready = selector.select(max(0.0, min(worker.deadline for worker in busy) - time.monotonic()))
        for key, _ in ready:
            worker = key.data
            said = worker.receive()
            if said == b"R":
                worker.ready = True
                worker.deadline = time.monotonic() + self._wall_seconds
            elif said:
                results[worker.index] = said == b"1"
                worker.index = None
            else:
                self._drop(worker)
        for worker in busy:
            if worker.index is not None and time.monotonic() > worker.deadline and worker in self._workers:
                self._drop(worker)

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.close()
        if not worker.ready:
            raise RuntimeError("The process that runs math-verify did not start; what it wrote stands above.")


_POOL = AnswerPool()
atexit.register(_POOL.close)
os.register_at_fork(after_in_child=_POOL.forget)


def compare_answers(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
    """`AnswerPool.compare` in this process's pool."""
    return _POOL.compare(pairs)
