"""The paper's Fig. 2: the network drawn with the shape of every block's output."""

from math import prod

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from genre_utils import paper
from genre_utils.plots.style import BLUE, FEATURES, ORANGE, canvas, finish, styled

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # VGG-16: convolutions, channels
FACES = {"data": ("#f2f2f2", "0.6"), "frozen": ("#d6e8f5", BLUE), "trained": ("#fbe3c4", ORANGE)}
STEP, BOX = 1.5, (1.26, 1.05)
TOP, BOTTOM = 2.2, 0.35


def block_shapes(height: int, width: int) -> list[tuple[int, int, int]]:
    """Shape after each of VGG-16's five blocks: pooling halves both sides, rounding down."""
    shapes = []
    for _, channels in BLOCKS:
        height, width = height // 2, width // 2
        shapes.append((height, width, channels))
    return shapes


def dense_layers(
    map_shape: tuple[int, int, int], n_classes: int, pooling: str = "flatten"
) -> list[tuple[str, int, int]]:
    """Name, number of outputs and number of weights of each layer of `head.build_head`."""
    flat = pooling == "flatten"
    first, second = paper.HEAD["units"]
    layers = [("Flatten" if flat else "Average", prod(map_shape) if flat else map_shape[-1], 0)]
    for units in (first, second, n_classes):
        layers.append(("Dense", units, (layers[-1][1] + 1) * units))
        layers.append(("Dropout", units, 0))
    return layers[:-1]  # nothing is dropped behind the softmax


@styled
def architecture(
    n_classes: int = len(paper.GENRES), feature: str = "mel", pooling: str = "flatten",
    note: str = "",
) -> Figure:  # fmt: skip
    """Draw the network: frozen blocks above, the trained layers in the paper's red box.

    Parameters
    ----------
    n_classes : int
    feature : {"mel", "mfcc", "chroma"}
        Decides the input's shape.
    pooling : {"flatten", "average"}
        What lies between the blocks and the first dense layer.
    """
    shapes = block_shapes(*paper.SHAPES[feature])
    upper = [("Input image", FEATURES[feature], (*paper.SHAPES[feature], 3), "data")]
    for i, ((n, channels), shape) in enumerate(zip(BLOCKS, shapes, strict=True), 1):
        upper.append((f"Block {i}", f"{n} × conv 3×3, {channels}\nmax-pool 2×2", shape, "frozen"))
    layers, relu = dense_layers(shapes[-1], n_classes, pooling), "ReLU"
    dropout, l2 = f"{paper.HEAD['dropout']:g}", f"{relu}, L2 {paper.HEAD['l2']:g}"
    what = ["" if pooling == "flatten" else "over the map", l2, dropout, relu, dropout, "softmax"]
    kinds = ["data", *["trained"] * 5]
    lower = [
        (name, text, (size,), kind)
        for (name, size, _), text, kind in zip(layers, what, kinds, strict=True)
    ]
    fig, ax = canvas(height=4.1)
    for y, row in ((TOP, upper), (BOTTOM, lower)):
        for i, layer in enumerate(row):
            _box(ax, i * STEP, y, *layer)
            if i:
                _arrow(ax, (i * STEP - STEP + BOX[0], y + BOX[1] / 2), (i * STEP, y + BOX[1] / 2))
    _outlines(ax)
    ax.set(xlim=(-0.05, 6 * STEP - 0.09), ylim=(BOTTOM - 0.16, TOP + BOX[1] + 0.36))
    ax.set_axis_off()
    return finish(fig, "The network: VGG-16's blocks and new dense layers", note)


def _box(ax: Axes, x: float, y: float, name: str, what: str, shape: tuple, kind: str) -> None:
    face, edge = FACES[kind]
    ax.add_patch(
        FancyBboxPatch(
            (x, y), *BOX, boxstyle="round,pad=0,rounding_size=0.08", facecolor=face, edgecolor=edge,
            linewidth=1.4,
        )
    )  # fmt: skip
    middle = x + BOX[0] / 2
    ax.text(middle, y + 0.93, name, ha="center", va="top", weight="bold", fontsize=11)
    ax.text(middle, y + 0.66, what, ha="center", va="top", fontsize=8.5, linespacing=1.15)
    size = " × ".join(f"{side:,}" for side in shape)
    ax.text(middle, y + 0.1, size, ha="center", va="bottom", fontsize=10)


def _arrow(ax: Axes, tail: tuple[float, float], tip: tuple[float, float]) -> None:
    ax.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": "0.35", "lw": 1.4})


def _outlines(ax: Axes) -> None:
    """Draw the way from the upper row to the lower one and a frame round either kind of layer."""
    right, low, half = 5 * STEP + BOX[0], TOP - 0.28, BOX[0] / 2
    path = [(right - half, TOP), (right - half, low), (half, low)]
    ax.plot(*zip(*path, strict=True), color="0.35", lw=1.4)
    _arrow(ax, (half, low + 0.01), (half, BOTTOM + BOX[1]))
    words = (TOP, BLUE, "frozen convolution blocks"), (BOTTOM, "red", "trained on the clips")
    for y, colour, text in words:
        size = 5 * STEP - (STEP - BOX[0]) + 0.24, BOX[1] + 0.24
        ax.add_patch(Rectangle((STEP - 0.12, y - 0.12), *size, fill=False, edgecolor=colour, lw=2))
        ax.text(right + 0.12, y + BOX[1] + 0.2, text, color=colour, weight="bold", ha="right")
