"""The processes that read what strangers send: they are ended, replaced, and never outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pneumo_hf.data.processes import Pool, TooSlowError


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def test_what_takes_too_long_is_ended_and_the_next_is_answered() -> None:
    pool = Pool(1, limit=0.5)
    try:
        first = pool.call(os.getpid)
        start = time.perf_counter()
        with pytest.raises(TooSlowError):
            pool.call(time.sleep, 60)
        assert time.perf_counter() - start < 5
        second = pool.call(os.getpid)
        assert first != second and not is_alive(first)
        with pytest.raises(TooSlowError):
            pool.call(os._exit, 1)  # as a decoder that crashes does
        assert pool.call(abs, -3) == 3
        with pytest.raises(ZeroDivisionError):
            pool.call(divmod, 1, 0)
    finally:
        pool.end()


def test_an_end_during_calls_leaves_no_process_and_answers_every_call() -> None:
    """The threads that wait for an answer see their processes end at the very moment in which they are ended."""
    for _ in range(10):
        pool = Pool(4, limit=60)
        pids = [worker.process.pid for worker in pool.workers]
        assert pool.call(abs, -3) == 3
        with ThreadPoolExecutor(8) as threads:  # four wait for their turn
            calls = [threads.submit(pool.call, time.sleep, 60) for _ in range(8)]
            time.sleep(0.2)
            pool.end()
            assert all(isinstance(call.exception(timeout=10), TooSlowError) for call in calls)
        assert [worker.process.pid for worker in pool.workers] == pids and not any(map(is_alive, pids))


def test_a_killed_parent_leaves_no_process_that_works() -> None:
    code = (
        "import os, threading, time; from pneumo_hf.data.processes import Pool; pool = Pool(2, limit=3.0)\n"
        "threading.Thread(target=pool.call, args=(time.sleep, 60), daemon=True).start()\n"
        "print(*(worker.process.pid for worker in pool.workers), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    time.sleep(2)  # until one of them works
    assert len(pids) == 2 and all(is_alive(pid) for pid in pids)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not any(is_alive(pid) for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError("a process outlives its parent")
