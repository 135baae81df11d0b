"""Write tests/golden/musicnn.npz: a patch and what musicnn's own graph makes of it.

``python tests/make_golden_musicnn.py`` fetches the wheel, takes the inference part of the training
graph that its authors left in the ``.meta`` file, restores their checkpoint into it and runs it in
TensorFlow. Nothing of `genre_utils.extraction.musicnn` but the wheel's name takes part.
"""

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from genre_utils.backend import tf
from genre_utils.extraction.musicnn import CHECKPOINT, WHEEL, WHEEL_SHA256
from genre_utils.extraction.vgg import fetch_wheel

OUTPUTS = {
    "max_pool": "model/Max",
    "mean_pool": "model/moments/Squeeze",
    "penultimate": "model/batch_normalization_10/batchnorm/add_1",
    "tags": "model/Sigmoid",
}


def patch():
    """A seeded patch [187, 96]: bursts of a few bands over noise, like log10(1 + 10000 power)."""
    rng = np.random.default_rng(0)
    bands = np.exp(-np.arange(96) / 40) * rng.uniform(0.2, 1, 96)
    beats = 1 + np.cos(2 * np.pi * np.arange(187) / 31) ** 8
    noise = rng.gamma(1.0, 1.0, (187, 96))
    return np.log10(1 + 1000 * beats[:, None] * bands * noise).astype(np.float32)


def main():
    with tempfile.TemporaryDirectory() as folder:
        wheel = fetch_wheel(WHEEL, WHEEL_SHA256, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            for name in (".data-00000-of-00001", ".index", ".meta"):
                (Path(folder) / f"msd{name}").write_bytes(archive.read(CHECKPOINT + name))
        outputs = run(Path(folder) / "msd", patch())
    target = Path(__file__).parent / "golden" / "musicnn.npz"
    np.savez_compressed(target, patch=patch(), **outputs)


def run(prefix, x):
    v1 = tf.compat.v1
    content = v1.MetaGraphDef.FromString(prefix.with_suffix(".meta").read_bytes())
    graph = v1.graph_util.extract_sub_graph(content.graph_def, list(OUTPUTS.values()))
    reader = tf.train.load_checkpoint(str(prefix))
    with tf.Graph().as_default(), v1.Session() as session:
        v1.import_graph_def(graph, name="")
        operations = session.graph.get_operations()
        variables = [op.name for op in operations if op.type in ("VariableV2", "Variable")]
        feed = {f"{name}:0": reader.get_tensor(name) for name in variables}
        training, image = (find(operations, kind) for kind in (tf.bool, tf.float32))
        found = session.run(
            {name: f"{node}:0" for name, node in OUTPUTS.items()},
            {**feed, training: False, image: x[None]},
        )
    return {name: rows.reshape(-1) for name, rows in found.items()}


def find(operations, kind):
    places = [op.outputs[0] for op in operations if op.type == "Placeholder"]
    (found,) = (tensor for tensor in places if tensor.dtype == kind)
    return found


if __name__ == "__main__":
    main()
