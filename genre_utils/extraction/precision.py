"""Numeric precision of the trunk's pass: measured once on each machine, then kept.

bfloat16 halves the bytes that a convolution moves, and newer processors and GPUs multiply it
faster; others imitate it slowly. Only a trial tells.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from genre_utils.errors import UsageError
from genre_utils.store import cache_dir, code_version, digest, write_json

PRECISIONS = ("auto", "float32", "bfloat16")
SPEEDUP = 1.3  # below that, float32's exact agreement with Keras is worth more
COSINE = 0.999
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # bfloat16 in silicon: Intel and AMD, Arm

Measure = Callable[[str], tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Decision:
    """What was taken and why.

    Attributes
    ----------
    precision : {"float32", "bfloat16"}
    speedup : float or None
        float32's time divided by bfloat16's; None when nothing was measured.
    cosine : float or None
        Smallest cosine similarity between an image's maps in the two precisions.
    """

    precision: str
    speedup: float | None = None
    cosine: float | None = None


def decide(asked: str, measure: Measure, key: dict[str, Any]) -> Decision:
    """Return the precision to use; measure it where this machine has not done so yet.

    Parameters
    ----------
    asked : {"auto", "float32", "bfloat16"}
        A precision by its name is taken as it is.
    measure : callable
        Precision -> seconds of a pass and its maps [n, ...], on the same images each time.
    key : dict
        What the measurement depends on beside the machine, the libraries and this module.
        The decision is kept under all of them in ``precision.json`` of the cache.

    Raises
    ------
    UsageError
        An unknown precision.
    """
    if asked not in PRECISIONS:
        raise UsageError(f"unknown precision {asked!r}: one of {', '.join(PRECISIONS)}")
    if asked != "auto":
        return Decision(asked)
    path, here = cache_dir() / "precision.json", machine()
    libraries = {name: version(name) for name in ("keras", "tensorflow")}
    code = code_version(sys.modules[__name__])
    name = digest({**key, "machine": here, "libraries": libraries, "code": code})[:16]
    known = _read(path)
    if name not in known:
        known = _read(path) | {name: {"machine": here, **asdict(compare(measure))}}
        write_json(path, known)
    return Decision(**{part: known[name][part] for part in ("precision", "speedup", "cosine")})


def compare(measure: Measure) -> Decision:
    """Measure both precisions: bfloat16 if it is `SPEEDUP` times faster and within `COSINE`."""
    seconds, exact = measure("float32")
    seconds_short, short = measure("bfloat16")
    speedup, cosine = seconds / seconds_short, smallest_cosine(exact, short)
    better = speedup >= SPEEDUP and cosine >= COSINE
    return Decision("bfloat16" if better else "float32", round(speedup, 2), round(cosine, 6))


def smallest_cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine similarity of the rows of two arrays [n, ...]: the smallest of the n."""
    one, other = (np.reshape(rows, (len(rows), -1)).astype(np.float64) for rows in (one, other))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((np.sum(one * other, axis=1) / np.maximum(lengths, 1e-300)).min())


def machine() -> dict[str, Any]:
    """Processor, its bfloat16 instructions and the GPUs: found without starting TensorFlow."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "gpus": sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*")),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "all"),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet, or spoiled: measured again
        return {}
