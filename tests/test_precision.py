import json

import numpy as np
import pytest

from genre_utils.extraction import vgg as precision
from genre_utils.extraction.vgg import Decision, decide
from genre_utils.runtime import UsageError

EXACT = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]])


class Machine:
    """A machine of given speed-up, whose short maps are turned by given angles (radians)."""

    def __init__(self, speedup, angles=(0.0, 0.0)):
        self.seconds = {"float32": 3.0 * speedup, "bfloat16": 3.0}
        across = np.array([[0.0, np.sqrt(5), 0.0], [np.sqrt(10), 0.0, 0.0]])  # at right angles
        angles = np.array(angles)[:, None]
        self.maps = {
            "float32": EXACT,
            "bfloat16": np.cos(angles) * EXACT + np.sin(angles) * across,
        }
        self.asked = []

    def __call__(self, kind):
        self.asked.append(kind)
        return self.seconds[kind], self.maps[kind]


@pytest.mark.parametrize(
    ("speedup", "angle", "expected"),
    [
        (1.31, 0.0, "bfloat16"),
        (1.29, 0.0, "float32"),
        (0.2, 0.0, "float32"),
        (4.0, np.arccos(0.9991), "bfloat16"),
        (4.0, np.arccos(0.9989), "float32"),
    ],
)
def test_fast_and_close_are_both_needed(speedup, angle, expected):
    decision = precision.compare(Machine(speedup, (0.0, angle)))
    assert decision.precision == expected
    assert decision.speedup == pytest.approx(speedup, abs=0.005)
    assert decision.cosine == pytest.approx(np.cos(angle), abs=1e-6)  # the worst image counts


def test_a_machine_is_measured_once(cache):
    machine = Machine(2.0)
    first = decide("auto", machine, {"weights": "a"})
    assert first == Decision("bfloat16", 2.0, 1.0)
    assert machine.asked == ["float32", "bfloat16"]
    assert decide("auto", Machine(0.5), {"weights": "a"}) == first
    (kept,) = json.loads((cache / "precision.json").read_text()).values()
    assert kept["machine"] == precision.machine()
    assert decide("auto", Machine(0.5), {"weights": "b"}).precision == "float32"
    assert decide("auto", Machine(0.5), {"weights": "a"}) == first  # both are kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("machine", lambda: {"processor": "another"}),
        ("version", lambda package: "0.0"),
        ("code_version", lambda module: "edited"),
    ],
)
def test_another_machine_library_or_code_is_measured_anew(cache, monkeypatch, name, value):
    decide("auto", Machine(2.0), {})
    monkeypatch.setattr(precision, name, value)
    again = Machine(1.0)
    assert decide("auto", again, {}).precision == "float32"
    assert again.asked == ["float32", "bfloat16"]


def test_a_spoiled_file_is_replaced(cache):
    cache.mkdir()
    (cache / "precision.json").write_text("{half")
    assert decide("auto", Machine(2.0), {}).precision == "bfloat16"
    assert decide("auto", Machine(0.5), {}).precision == "bfloat16"


def test_a_precision_by_name_is_neither_measured_nor_kept(cache):
    machine = Machine(2.0)
    assert decide("float32", machine, {}) == Decision("float32")
    assert machine.asked == []
    assert not cache.exists()
    with pytest.raises(UsageError, match="unknown precision 'float16': one of auto, float32"):
        decide("float16", machine, {})


def test_the_machine_is_described_by_its_processor():
    found = precision.machine()
    assert found["processor"]
    assert found == precision.machine()
    json.dumps(found)
