"""Freed memory stays with the process: a block of 64 MB faults its pages in once, not each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from filterdb.networks.memory import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def run(**environment: str) -> tuple[bool, int]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    found = subprocess.run([sys.executable, "-c", CODE], env=clean | environment, capture_output=True, text=True, check=True)
    kept, faults = found.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_unless_the_user_has_said_otherwise() -> None:
    kept, faults = run()
    left, without = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert (kept, left) == (True, False)
    assert faults * 10 < without
