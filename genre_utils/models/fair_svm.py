"""How far a support vector machine gets on MFCC when it is treated like the CNNs.

The paper's baseline (section 2.5) was cut down to save time: half of each clip, nothing
standardised, one linear kernel. Here the same 13 MFCC of the same 20 s that the CNNs see, with
their changes over time, standardised, a Gaussian kernel, and its two parameters chosen by nested
cross-validation.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import joblib
import librosa
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from genre_utils import paper
from genre_utils.data import splits as protocols
from genre_utils.errors import UsageError
from genre_utils.extraction import audio, features
from genre_utils.models.svm import frame_mask
from genre_utils.progress import progress
from genre_utils.store import Store, code_version

SYSTEM = "svm-fair"
GRID = MappingProxyType(
    {"svc__C": (0.1, 1.0, 10.0, 100.0), "svc__gamma": (0.002, 0.006, 0.02, 0.06)}
)
INNER_FOLDS = 3
CHUNK = 64  # clips between two writes


def frames(y: np.ndarray) -> np.ndarray:
    """Frames as `features.svm_frames` makes them, of all 20 s instead of the first 10.

    Parameters
    ----------
    y : np.ndarray [shape=(n,)]
        16 kHz samples.

    Returns
    -------
    np.ndarray [shape=(14, t), dtype=float32]
        13 MFCC and the level in dB; t = 248 for 20 s.
    """
    hop, n_fft = paper.SVM["hop_length"], paper.SVM["n_fft"]
    ten_seconds = round(paper.SVM["duration"] * audio.SAMPLE_RATE)
    # A piece starts one hop after the last frame of the one before: no frame lost, none twice.
    # Only the floor of -80 dB is relative to the loudest of a piece, not of the whole.
    step = ((ten_seconds - n_fft) // hop + 1) * hop
    starts = range(0, len(y) - n_fft + 1, step)
    return np.hstack([features.svm_frames(y[start:]) for start in starts])


def vectors(rows: np.ndarray, threshold: float = -40.0) -> np.ndarray:
    """Mean and standard deviation over the kept frames of each MFCC and of its slope.

    Parameters
    ----------
    rows : np.ndarray [shape=(n, 14, t)]
        From `frames`.
    threshold : float
        As in `svm.frame_mask`.

    Returns
    -------
    np.ndarray [shape=(n, 52)]
        13 means, 13 deviations; the same of the slopes (`librosa.feature.delta`, 9 frames).
    """
    slopes = librosa.feature.delta(rows[:, :-1].astype(float))
    result = []
    for clip, slope in zip(rows.astype(float), slopes, strict=True):
        kept = frame_mask(clip[-1], threshold)
        parts = [values[:, kept] for values in (clip[:-1], slope)]
        result.append(np.concatenate([[part.mean(axis=1), part.std(axis=1)] for part in parts]))
    return np.array(result).reshape(len(rows), -1)


def stored_frames(
    files: Sequence[Path], ids: Sequence[str], root: Path, *,
    offset: float = 0.0, fill: str = "repeat", jobs: int = 1, fresh: bool = False,
) -> Store:  # fmt: skip
    """Extract the frames that are not stored yet.

    Parameters
    ----------
    files, ids : sequences of the same length
        Sound files and the digests of their bytes.
    offset, fill
        As for the CNNs' features, see `audio.load_clip`.

    Returns
    -------
    Store
        Rows [14, t] by id.
    """
    how = {"offset": offset, "fill": fill, "duration": paper.AUDIO["duration"]}
    key = {
        "feature": SYSTEM, **paper.SVM, "audio": how,
        "code": code_version(audio, features, sys.modules[__name__]),
        "libraries": {name: version(name) for name in ("librosa", "numpy", "soundfile")},
    }  # fmt: skip
    store = Store(root, SYSTEM, key, fresh=fresh)
    lacking = set(store.missing(ids))
    todo = list({i: path for i, path in zip(ids, files, strict=True) if i in lacking}.items())
    starts = progress(range(0, len(todo), CHUNK), "SVM frames of 20 s", unit=f"x{CHUNK} clips")
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        for start in starts:
            part = todo[start : start + CHUNK]
            rows = joblib.Parallel()(joblib.delayed(_one)(path, how) for _, path in part)
            store.put([i for i, _ in part], np.stack(rows))
    return store


@threadpool_limits.wrap(limits=1)  # last bits must not depend on the number of threads
def _one(path: Path, how: dict) -> np.ndarray:
    return frames(audio.load_clip(path, **how))


def cross_validate(
    x: np.ndarray, clips: pd.DataFrame, splits: pd.DataFrame, *, seed: int = 0, jobs: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test every clip once under each protocol; parameters are chosen inside each training part.

    The inner folds follow the outer protocol: where test artists are new, so are the inner ones.

    Parameters
    ----------
    x : np.ndarray [shape=(n, d)]
        From `vectors`, in the order of ``clips``.
    clips : pd.DataFrame
        The n usable clips.
    splits : pd.DataFrame
        protocol, clip_id, fold.

    Returns
    -------
    predictions : pd.DataFrame
        system, protocol, fold, clip_id, y_true, y_pred.
    chosen : pd.DataFrame
        protocol, fold, C, gamma, inner_accuracy (of the choice, on the inner test clips).

    Raises
    ------
    UsageError
        A training part has too few groups for the inner folds.
    """
    clips = clips.reset_index(drop=True)
    tasks = []
    for protocol, part in splits.groupby("protocol", sort=False):
        fold = clips["clip_id"].map(part.set_index("clip_id")["fold"]).to_numpy()
        group = protocols.groups(clips, protocol).to_numpy()
        for i in sorted(part["fold"].unique()):
            inner = _inner_folds(clips["genre"], group, fold != i, protocol, seed)
            tasks.append((protocol, int(i), fold == i, inner))
    y = clips["genre"].to_numpy()
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        work = joblib.Parallel(return_as="generator")
        found = work(joblib.delayed(_fold)(x, y, test, inner) for _, _, test, inner in tasks)
        results = list(progress(found, SYSTEM, len(tasks), "fold"))
    tables, chosen = [], []
    for (protocol, i, test, _), (answers, parameters) in zip(tasks, results, strict=True):
        where = {"system": SYSTEM, "protocol": protocol, "fold": i}
        table = pd.DataFrame({"clip_id": clips["clip_id"][test], "y_true": y[test]})
        tables.append(pd.DataFrame(where, index=table.index).join(table).assign(y_pred=answers))
        chosen.append({"protocol": protocol, "fold": i, **parameters})
    order = {protocol: i for i, protocol in enumerate(splits["protocol"].unique())}
    predictions = pd.concat(tables).sort_values("clip_id", kind="stable")
    predictions = predictions.sort_values("protocol", key=lambda p: p.map(order), kind="stable")
    return predictions.reset_index(drop=True), pd.DataFrame(chosen)


def _inner_folds(
    genre: pd.Series, group: np.ndarray, train: np.ndarray, protocol: str, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds of the training part, as positions in it."""
    genre, group = genre[train], group[train]
    if len(set(group)) < INNER_FOLDS:
        raise UsageError(
            f"{SYSTEM}: a training part of the {protocol} protocol has fewer than {INNER_FOLDS} "
            "groups to choose parameters on; use more folds or more clips"
        )
    kind = StratifiedGroupKFold if protocols.PROTOCOLS[protocol] else StratifiedKFold
    with warnings.catch_warnings():  # a genre with fewer groups than folds: see splits
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = kind(INNER_FOLDS, shuffle=True, random_state=seed)
        groups = group if protocols.PROTOCOLS[protocol] else None
        return list(parts.split(genre, genre, groups))


def _fold(x: np.ndarray, y: np.ndarray, test: np.ndarray, inner: list) -> tuple[np.ndarray, dict]:
    pipeline = make_pipeline(StandardScaler(), SVC(kernel="rbf"))
    search = GridSearchCV(pipeline, dict(GRID), cv=inner, n_jobs=1, error_score="raise")
    search.fit(x[~test], y[~test])
    best = {name.removeprefix("svc__"): value for name, value in search.best_params_.items()}
    return search.predict(x[test]), best | {"inner_accuracy": round(search.best_score_, 6)}
