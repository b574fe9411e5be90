"""A process that keeps freed memory does not ask the system for it again."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys, torch
from pneumo_hf.runtime import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)  # 64 MiB, above the 32 MiB from which glibc gives back at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(30)][-1])  # small blocks settle in the first ones' gaps
"""


def test_kept_memory_is_not_mapped_again() -> None:
    faults = {
        how: subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, check=True).stdout
        for how in ("keep", "give back")
    }
    if not faults["keep"]:
        pytest.skip("this C library has no such settings")
    assert int(faults["keep"]) < int(faults["give back"]) / 10
