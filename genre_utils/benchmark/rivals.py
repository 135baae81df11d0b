"""The frozen trunk in other frameworks, from the same weight arrays, in float32."""

import importlib.util
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import joblib
import numpy as np

from genre_utils.extraction.vgg import LAYERS, Arrays
from genre_utils.runtime import GenreUtilsError, UsageError

# Name -> pip package. All run with as many threads as there are processors.
RIVALS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "torch": "torch"}
CHOICES = ("naive", *RIVALS)

Forward = Callable[[np.ndarray], np.ndarray]


def chosen(text: str) -> list[str]:
    """Names in a comma-separated list.

    Raises
    ------
    UsageError
        An unknown name.
    GenreUtilsError
        A framework that is not installed; the line says which package is to be installed.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CHOICES:
            raise UsageError(f"--against {name}: one of {', '.join(CHOICES)}")
        if name in RIVALS and importlib.util.find_spec(name) is None:
            raise GenreUtilsError(
                f"--against {name}: not installed; pip install {RIVALS[name]}, or leave it out"
            )
    return [name for name in names if name in RIVALS]


def versions(names: list[str]) -> dict[str, str]:
    """Versions of the frameworks that were timed."""
    return {name: metadata.version(RIVALS[name]) for name in names}


def forward(name: str, arrays: Arrays, folder: Path) -> Forward:
    """Return a function from images [n, height, width, 3] to maps [n, height, width, 512].

    Parameters
    ----------
    name : str
        A key of `RIVALS`.
    arrays : dict
        VGG-16's kernels and biases.
    folder : Path
        Where the ONNX file is written for those that read one.
    """
    if name == "torch":
        return _torch(arrays)
    path = folder / "trunk.onnx"
    if not path.is_file():
        path.write_bytes(onnx_model(arrays))
    run = _onnxruntime(path) if name == "onnxruntime" else _openvino(path)
    return lambda images: run(_channels_first(images)).transpose(0, 2, 3, 1)


def onnx_model(arrays: Arrays) -> bytes:
    """Serialise the 13 convolutions and 5 poolings as an ONNX model [n, 3, h, w] -> maps."""
    from onnx import TensorProto, numpy_helper
    from onnx import helper as make

    nodes, kept, last = [], [], "images"
    for i, name in enumerate(LAYERS):
        kernel, bias = arrays[name]
        parts = {"kernel": np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), "bias": bias}
        kept += [numpy_helper.from_array(a, f"{name}.{part}") for part, a in parts.items()]
        inputs = [last, f"{name}.kernel", f"{name}.bias"]
        nodes.append(make.make_node("Conv", inputs, [f"{name}.sum"], pads=[1, 1, 1, 1]))
        nodes.append(make.make_node("Relu", [f"{name}.sum"], [name]))
        last = name
        if _ends_block(i):
            square = {"kernel_shape": [2, 2], "strides": [2, 2]}
            nodes.append(make.make_node("MaxPool", [last], [f"{name}.pool"], **square))
            last = f"{name}.pool"
    tensors = [
        make.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, None, None])
        for name, channels in (("images", 3), (last, 512))
    ]
    graph = make.make_graph(nodes, "vgg16", tensors[:1], tensors[1:], kept)
    opset = [make.make_opsetid("", 17)]
    return make.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def _ends_block(i: int) -> bool:
    return i + 1 == len(LAYERS) or LAYERS[i + 1].endswith("conv1")


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _onnxruntime(path: Path) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = joblib.cpu_count()
    engine = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda images: engine.run(None, {"images": images})[0]


def _openvino(path: Path) -> Forward:
    import openvino

    # Without the hint it takes bfloat16 where the processor knows it.
    how = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": joblib.cpu_count(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(str(path), "CPU", how)
    return lambda images: model(images)[0]


def _torch(arrays: Arrays) -> Forward:
    import torch

    torch.set_num_threads(joblib.cpu_count())
    layers = []
    for i, name in enumerate(LAYERS):
        kernel, bias = (torch.from_numpy(np.array(array)) for array in arrays[name])
        layer = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
        layer.weight.data, layer.bias.data = kernel.permute(3, 2, 0, 1).contiguous(), bias
        layers += [layer, torch.nn.ReLU()]
        if _ends_block(i):
            layers.append(torch.nn.MaxPool2d(2))
    model = torch.nn.Sequential(*layers).eval().to(memory_format=torch.channels_last)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():  # [n, h, w, 3] seen as channels last: no copy
            return model(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()

    return run
