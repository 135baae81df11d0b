"""The machine that measured: what it is, its free memory, how fast it streams arrays."""

import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import joblib
import numba
import numpy as np

from genre_utils.benchmark.rows import seconds
from genre_utils.store import today, versions

FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")


def describe() -> dict:
    """Processor, cores, memory in GB, relevant instructions, versions, date."""
    lines = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        pairs = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        lines = {name.strip(): value.strip() for name, value in pairs}
    flags = set(lines.get("flags", "").split())
    return {
        "processor": lines.get("model name", "unknown"),
        "cores": joblib.cpu_count(),
        "memory_gb": round(_memory() / 1e9, 1),
        "flags": [flag for flag in FLAGS if flag in flags],
        "versions": versions(),
        "date": today(),
    }


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_available() -> int:
    """Bytes that can be taken without swapping; half of all where the system does not say."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return _memory() // 2


@numba.njit(nogil=True)
def _touch(arrays, begin, end):  # noqa: ANN001, ANN202 (numba infers: float32 [k, n])
    one = np.float32(1)
    for i in range(len(arrays)):
        part = arrays[i, begin:end]
        for j in range(len(part)):
            part[j] += one


def streaming_seconds(n: int, k: int, repeats: int) -> float:
    """Median time to read and write ``k`` float32 arrays of ``n`` values once, on all cores."""
    arrays, threads = np.ones((k, n), np.float32), joblib.cpu_count()
    edges = np.linspace(0, n, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        spans = [(arrays, begin, end) for begin, end in pairwise(edges)]

        def sweep() -> None:
            list(pool.map(_touch, *zip(*spans, strict=True)))

        sweep()  # compiles
        return statistics.median(seconds(sweep) for _ in range(3 * repeats))
