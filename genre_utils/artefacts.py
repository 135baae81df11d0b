"""What a run leaves in its folder, one file a stage: the notebooks read and write through this."""

import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from genre_utils import paper
from genre_utils.errors import GenreUtilsError
from genre_utils.metrics.reference_points import LABELS
from genre_utils.store import Store, cache_dir, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
# File -> the notebook that writes it.
TABLES = {
    "clips": "01_data",
    "splits": "01_data",
    "audio": "01_data",
    "predictions": "03_cnn and 04_svm",
    "history": "03_cnn",
    "table1": "05_results",
    "comparisons": "06_what_it_measures",
    "claims": "06_what_it_measures",
    "beyond": "07_beyond_the_paper",
    "beyond_table": "07_beyond_the_paper",
    "chosen": "07_beyond_the_paper",
    "fewer_artists": "07_beyond_the_paper",
    "learning_curve": "07_beyond_the_paper",
    "calibration": "07_beyond_the_paper",
}
TEXT_COLUMNS = (
    "clip_id", "path", "genre", "artist", "album", "track", "status", "y_true", "y_pred",
)  # fmt: skip
PACKAGES = ("librosa", "soundfile", "numpy", "scipy", "keras", "tensorflow", "scikit-learn")


class Run:
    """The folder of one run.

    Parameters
    ----------
    out : str or Path
        The folder; empty means ``runs/demo-<dataset>`` beside the notebooks.
    dataset : str
        Name of the data set, for the default folder.
    """

    def __init__(self, out: str | Path = "", dataset: str = "demo") -> None:
        self.folder = Path(out).expanduser().resolve() if out else ROOT / "runs" / f"demo-{dataset}"
        self.cache = cache_dir() / "arrays"

    def read(self, name: str) -> pd.DataFrame:
        """Read one of `TABLES`.

        Raises
        ------
        GenreUtilsError
            It is not there; the line names the notebook that writes it.
        """
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            raise GenreUtilsError(f"no {path}; run notebook {TABLES[name]} first")
        types = dict.fromkeys(TEXT_COLUMNS, str)
        table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
        text = [column for column in TEXT_COLUMNS if column in table]
        return table.fillna(dict.fromkeys(text, ""))

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Write one of `TABLES` atomically."""
        write_text(self.folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))

    def add_predictions(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Put systems' rows into predictions.csv in place of their old ones.

        Rows of other systems stay as long as they belong to the current splits. The order of the
        systems is always the same: the paper's, others, reference points. Returns the whole table.
        """
        path = self.folder / "predictions.csv"
        if path.is_file():
            old = self.read("predictions")
            where = ["protocol", "clip_id", "fold"]
            current = pd.MultiIndex.from_frame(self.read("splits")[where])
            valid = pd.MultiIndex.from_frame(old[where]).isin(current)
            stay = valid & ~old["system"].isin(predictions["system"]).to_numpy()
            predictions = pd.concat([old[stay], predictions], ignore_index=True)
        order = [
            *paper.TABLE1,
            *sorted(set(predictions["system"]) - {*paper.TABLE1, *LABELS}),
            *LABELS,
        ]
        rank = predictions["system"].map({system: i for i, system in enumerate(order)})
        predictions = predictions.iloc[np.argsort(rank, kind="stable")]
        probabilities = [column for column in predictions if column.startswith("p_")]
        rounded = predictions[probabilities].astype(float).round(6)
        self.write("predictions", predictions.assign(**rounded))
        return self.read("predictions")

    def usable_clips(self) -> pd.DataFrame:
        """Return the clips with status ``ok``, with the digest of their audio (sha256)."""
        clips = self.read("clips")
        return clips[clips["status"] == "ok"].merge(self.read("audio"), on="clip_id", how="left")

    def sound_files(self, clips: pd.DataFrame) -> list[Path]:
        """Return the sound file of each clip."""
        folder = Path(self.recorded("data_dir")["path"])
        return [folder / path for path in clips["path"]]

    def record(self, part: str, value: dict[str, Any]) -> None:
        """Put one part (parameters and facts of a stage) into run.json."""
        write_json(self.folder / "run.json", self._known("run.json") | {part: _plain(value)})

    def recorded(self, part: str) -> dict[str, Any]:
        """Return a part of run.json.

        Raises
        ------
        GenreUtilsError
            No earlier stage recorded it.
        """
        return self._part("run.json", part)

    def note(self) -> str:
        """Return what every figure and table of this run must say of itself; often nothing."""
        known = self._known("run.json")
        parts = [known.get("corpus", {}).get("note", "")]
        if known.get("weights", {}).get("random"):
            parts.append("untrained VGG-16")
        return "; ".join(part for part in parts if part)

    def record_arrays(self, stores: dict[str, Store]) -> None:
        """Note in arrays.json which folders hold the rows of this run."""
        folders = {name: str(store.folder) for name, store in stores.items()}
        write_json(self.folder / "arrays.json", self._known("arrays.json") | folders)

    def arrays(self, name: str) -> Store:
        """Return the store of ``name`` ("mel", "vgg-mel", "svm", ...) that this run uses.

        Raises
        ------
        GenreUtilsError
            No earlier stage made it.
        """
        return Store.opened(self._part("arrays.json", name))

    def _part(self, file: str, name: str) -> Any:  # noqa: ANN401
        known = self._known(file)
        if name not in known:
            raise GenreUtilsError(
                f"{self.folder / file} has no {name!r}; run the earlier notebooks"
            )
        return known[name]

    def _known(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def figures(self) -> Path:
        """Folder of the pictures."""
        return self.folder / "figures"


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    return {package: version(package) for package in PACKAGES}


def today() -> str:
    """Date and time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
