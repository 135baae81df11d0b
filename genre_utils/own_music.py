"""A model for one's own music: train it on a data set, save it, let it answer sound files.

A saved model is a folder: ``arrays.npz`` (plain arrays), ``model.json`` (what they are, what the
model has heard, a digest of it all) and ``README.md``, the model card. No pickle is written or
read: a folder from elsewhere can at worst be refused. It is trained on all usable clips. Before,
`systems.cross_validate` in folds over artists says how good it is on new artists; one temperature,
fitted on the same answers, calibrates its confidence (Guo et al., ICML 2017). Answers are kept in
the cache by the content of the sound file: TensorFlow starts only for what is new.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from genre_utils import __version__, paper, store
from genre_utils.data import audio, datasets, inputs, splits
from genre_utils.extraction import features, vgg
from genre_utils.metrics import evaluate, intervals, tables
from genre_utils.metrics.confidence import apply_temperature, fit_temperature
from genre_utils.models import explain, systems
from genre_utils.models.cnn import POOLING, HeadClassifier
from genre_utils.runtime import GenreUtilsError, UsageError, expanded, progress
from genre_utils.store import Arrays, Run, Store, cache_dir, code_digest, digest, remembered

SYSTEM, MAPS = "cnn-mel-small", "vgg-mel"  # what is trained, and on which stored maps
SETTINGS = {"pooling": "average", "epochs": 100, "seed": 0}  # of `HeadClassifier`
FOLDS = 5  # of the estimate
MIN_ARTISTS = 2  # of a genre: one to train on, one to test on
SURE = 0.5  # the model card says how good answers above this confidence are
FORMAT = 2
ARRAYS, FACTS, CARD = "arrays.npz", "model.json", "README.md"
HEAD = ("kernel_1", "bias_1", "kernel_2", "bias_2", "kernel_3", "bias_3")


@dataclass(frozen=True)
class SavedModel:
    """A trained head that predicts from its arrays alone.

    ``classes`` are the genres in the order of the probabilities' columns, ``arrays`` `HEAD` ->
    floating-point kernels and biases of the three dense layers. ``temperature`` divides the
    log-probabilities, so that a confidence of 0.8 is right in about 80 % of cases; 1 leaves them as
    they are. ``facts`` (for JSON): system, settings, data, features, estimate, versions.
    """

    classes: tuple[str, ...]
    arrays: Arrays
    temperature: float
    facts: dict[str, Any]

    @cached_property
    def head(self) -> HeadClassifier:
        """The head as an estimator, not calibrated."""
        head = HeadClassifier(**self.facts["settings"])
        head.weights_ = [self.arrays[name].astype(np.float32) for name in HEAD]
        head.classes_ = np.array(self.classes)
        return head

    @cached_property
    def digest(self) -> str:
        """SHA-256 over arrays, classes, temperature and facts."""
        known = digest([self.classes, self.temperature, self.facts])
        total = hashlib.sha256(known.encode())
        for name, array in sorted(self.arrays.items()):
            total.update(f"{name}{array.dtype.str}{array.shape}".encode())
            total.update(array.tobytes())
        return total.hexdigest()

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Calibrated probabilities [n, n_classes] of maps [n, height, width, 512]."""
        return apply_temperature(self.head.predict_proba(rows), self.temperature)

    def save(self, folder: str | Path) -> "SavedModel":
        """Write the folder and return the model; UsageError if other files are in the folder."""
        folder = check_target(folder)
        store.write_atomic(folder / ARRAYS, lambda part: np.savez(part, **self.arrays))
        store.write_text(folder / CARD, card(self))
        known = {"format": FORMAT, "classes": self.classes, "temperature": self.temperature}
        # Last, so that half a model is never taken for one.
        store.write_json(folder / FACTS, {**known, "digest": self.digest, "facts": self.facts})
        return self

    @classmethod
    def load(cls, folder: str | Path) -> "SavedModel":
        """Read what `save` wrote; UsageError if it is gone, altered or another version's."""
        folder = Path(folder)
        if not (folder / FACTS).is_file():
            hint = "`python -m genre_utils train` makes one"
            raise UsageError(f"{folder}: no model here (no {FACTS}); {hint}")
        try:
            known = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            if known["format"] != FORMAT:
                raise ValueError(f"made by another version: format {known['format']}, not {FORMAT}")
            with np.load(folder / ARRAYS, allow_pickle=False) as data:
                arrays = dict(data)
            model = cls(tuple(known["classes"]), arrays, known["temperature"], known["facts"])
            _check(model, known["digest"])
        except Exception as error:  # bytes from elsewhere can fail in any way
            why = f"{type(error).__name__}: {error}".splitlines()[0][:90]
            why = f"a model that cannot be used ({why}); train it again or fetch a new copy"
            raise UsageError(f"{folder}: {why}") from None
        return model


def check_target(folder: str | Path) -> Path:
    """Make sure that a model may be written to a folder; UsageError if other files are there."""
    folder = Path(expanded(folder))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the model")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FACTS).is_file():
        raise UsageError(f"{folder} has files in it that are no model; name a new folder")
    return folder


def _check(model: SavedModel, expected: str) -> None:
    """Raise an error unless all is as it was saved, and fits together."""
    arrays, classes = model.arrays, model.classes
    if model.digest != expected:
        raise ValueError("not the files that were saved together")
    if set(arrays) != set(HEAD):
        raise ValueError(f"arrays {', '.join(sorted(arrays))}")
    if not all(a.dtype.kind == "f" and np.isfinite(a).all() for a in arrays.values()):
        raise ValueError("values that are no finite numbers")
    if len(set(classes)) < 2 or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes that are no two different names")
    kernels, biases = ([arrays[name].shape for name in HEAD[i::2]] for i in (0, 1))
    widths = [(kernels[1][0],), (kernels[2][0],), (len(classes),)]
    if not (widths == biases == [shape[1:] for shape in kernels]):
        raise ValueError("shapes that do not fit")
    if not 0 < model.temperature < np.inf or model.head.pooling not in POOLING:
        raise ValueError(f"temperature {model.temperature}, pooling {model.head.pooling!r}")
    features.Look(**model.facts["features"]["look"])
    card(model), summary(model)  # no fact is missing


def summary(model: SavedModel) -> str:
    """Return one line: system, what it has heard, how good it was, what makes it meaningless."""
    facts, data, estimate = model.facts, model.facts["data"], model.facts["estimate"]
    worth = "its accuracy on new artists is not known: {unknown}"
    if "unknown" not in estimate:
        worth = "accuracy on new artists {accuracy:.2f} ({accuracy_lo:.2f} to {accuracy_hi:.2f})"
    warnings = ["it has heard no real music"] * data["synthetic"]
    warnings += ["its VGG-16 is untrained"] * (facts["features"]["weights"] != vgg.DIGEST)
    heard = f"{data['clips']:,} clips of {data['title']}, {len(model.classes)} genres"
    said = f"{facts['system']}, trained on {heard}; {worth.format(**estimate)}"
    return said + (f" ({', '.join(warnings)})" if warnings else "")


def card(model: SavedModel) -> str:
    """Return the model card as Markdown, from the template ``model_card.md``."""
    text = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(text)
    megabytes = sum(array.nbytes for array in model.arrays.values()) / 1e6
    known = {"published": vgg.DIGEST, "paper": paper, "plain": tables.plain}
    return template.render(model=model, megabytes=megabytes, **known)


def train(dataset: str, data_dir: str, out: str, *, epochs: int = 0, jobs: int = 1) -> SavedModel:
    """Read a data set, train on all its usable clips and write the model's folder.

    ``dataset`` is a name in `datasets.DATASETS`; UsageError for others, and where ``out`` holds
    other files. 0 epochs: those of `SETTINGS`. ``jobs`` workers read audio.
    """
    check_target(out)
    clips, report = datasets.load_clips(dataset, data_dir or None, jobs=jobs)
    for line in datasets.remarks(report):
        print(line, file=sys.stderr)
    clips = datasets.leave_out_small_genres(clips, FOLDS, MIN_ARTISTS)
    folder = datasets.data_folder(dataset, data_dir or None, jobs=jobs)
    digests = datasets.audio_digests(clips, folder, jobs=jobs)
    clips = clips.assign(sha256=clips["clip_id"].map(digests))
    used = clips[clips["status"] == "ok"]
    pairs = splits.find_duplicates(used, folder, digests, jobs=jobs)
    folds: pd.DataFrame | str = ""
    for n_folds in range(FOLDS, 1, -1):  # a small collection has room for fewer
        try:
            folds = splits.make_splits(used, ["artist"], n_folds, 0, pairs)
            break
        except UsageError as error:
            folds = folds or str(error)
    files, ids = [store.located(folder, path) for path in used["path"]], list(used["sha256"])
    root, look, weights = cache_dir() / "arrays", features.Look(), vgg.load_weights()
    mel = features.extract_all(files, ids, root, look, ["mel"], jobs=jobs)["mel"]
    maps = vgg.compute_maps(mel, "mel", ids, weights, root, look)[MAPS]
    model = fit(clips, maps, folds, epochs)
    model.facts["data"]["passed_over"] = report.get("passed_over", {})
    return model.save(out)


def train_from_run(run: Run) -> SavedModel:
    """Train on a finished run's clips, maps and artist folds (a minute), save as its ``model``."""
    out = check_target(run.folder / "model")
    clips = run.read("clips").merge(run.read("audio"), on="clip_id", how="left")
    folds = run.read("splits").query("protocol == 'artist'")
    folds = folds.assign(fold=folds["fold"] % FOLDS)
    known = "the run has no artist folds" if folds.empty else folds
    model = fit(clips, run.arrays(MAPS), known)
    model.facts["data"]["passed_over"] = run.recorded("corpus")["report"].get("passed_over", {})
    return model.save(out)


def fit(clips: pd.DataFrame, maps: Store, folds: pd.DataFrame | str, epochs: int = 0) -> SavedModel:
    """Estimate by artist folds, calibrate, then train on all usable clips.

    ``clips`` is the whole clip table, refused rows included, with sha256 of the audio; UsageError
    for usable clips of fewer than two genres. ``maps`` are those of mel-spectrograms; finished
    folds and the trained head are kept beside them. ``folds`` are rows of splits.csv, protocol
    ``artist``, or a text that says why there are none. ``epochs``: see `train`.
    """
    settings = SETTINGS | ({"epochs": epochs} if epochs else {})
    root = maps.folder.parent / "folds"
    used = clips[clips["status"] == "ok"]
    if used["genre"].nunique() < 2:
        raise UsageError(f"{used['genre'].nunique()} genre with usable clips; two are needed")
    if not (used["artist"] != "").any():
        folds = "the data set does not name its artists"
    temperature, estimate = 1.0, {"unknown": folds}
    if not isinstance(folds, str):
        how = {"settings": settings, "root": root}
        tested, _ = systems.cross_validate("cnn-mel", {MAPS: maps}.get, used, folds, **how)
        temperature, estimate = _estimate(tested, used)
    y = used["genre"].to_numpy(dtype=str)

    def trained() -> Arrays:
        head = HeadClassifier(**settings).fit(maps.load(list(used["sha256"])), y)
        return dict(zip(HEAD, head.weights_, strict=True))

    key = [settings, maps.folder.name, list(used["sha256"]), list(y), code_digest(HeadClassifier)]
    arrays = remembered(root / f"model-{digest(key)[:24]}.npz", trained)
    facts = {"system": SYSTEM, "settings": settings, **_known(clips, maps), "estimate": estimate}
    facts["versions"] = {"genre_utils": __version__, **store.versions()}
    return SavedModel(tuple(np.unique(y).tolist()), arrays, temperature, facts)


def _estimate(tested: pd.DataFrame, used: pd.DataFrame) -> tuple[float, dict[str, Any]]:
    """Temperature, and how good the answers to unknown artists are (intervals over artists)."""
    table = tested.filter(regex="^p_")
    genres, proba = table.columns.str.removeprefix("p_"), table.to_numpy(dtype=float)
    temperature = fit_temperature(proba, genres.get_indexer(tested["y_true"]))
    right = (tested["y_true"] == tested["y_pred"]).to_numpy()
    sure = apply_temperature(proba, temperature).max(axis=1) >= SURE
    row = evaluate.score_table(tested).merge(intervals.cluster_intervals(tested, used)).iloc[0]
    names = ("accuracy", "accuracy_lo", "accuracy_hi", "f_score", "n_artists", "n_folds")
    estimate = {name: row[name].item() for name in names}
    estimate["recall"] = pd.Series(right).groupby(tested["y_true"].to_numpy()).mean().to_dict()
    estimate["sure"] = {"confidence": SURE, "share": float(sure.mean())}
    estimate["sure"]["accuracy"] = float(right[sure].mean()) if sure.any() else None
    return temperature, estimate


def _known(clips: pd.DataFrame, maps: Store) -> dict[str, Any]:
    """Facts: what was heard and left out; how the maps are made, which `Predictor` repeats."""
    data_set = datasets.get(clips["dataset"].iloc[0])
    data = {n: getattr(data_set, n) for n in ("name", "title", "synthetic", "licence", "citation")}
    used, refused = clips[clips["status"] == "ok"], clips[clips["status"] != "ok"]
    artists = ("artist", lambda names: names[names != ""].nunique())
    genres = used.groupby("genre").agg(clips=("clip_id", "size"), artists=artists)
    data |= {"clips": len(used), "genres": genres.to_dict("index")}
    data |= {"unknown": unknown} if (unknown := splits.unknown(used)) else {}
    data["refused"] = refused["status"].value_counts().to_dict()
    key = maps.key
    mel = Store(maps.folder.parent / key["features"]).key
    known = key | mel["audio"] | {"mel_scale": mel["scale"]}
    look = {name: known[name] for name in asdict(features.Look())}
    made = {"look": look, "weights": key["weights"], "precision": key["precision"]}
    return {"data": data, "features": made}


@dataclass(frozen=True)
class Prediction:
    """What a model says of one file; the rest is empty when the file is refused."""

    path: Path
    refused: str = ""  # why it cannot be used
    genre: str = ""  # the most probable
    confidence: float = np.nan  # its probability
    # By genre: the mean over the windows that are not silent.
    probabilities: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))
    # start_s and a column a genre: calibrated probabilities of each 20 s, NaN where it is silent.
    windows: pd.DataFrame = field(default_factory=pd.DataFrame)


class Predictor:
    """A saved model (`model`, from ``folder``) with the trunk that it needs.

    Raises as `SavedModel.load`, and GenreUtilsError where the trunk's weights cannot be had.
    """

    def __init__(self, folder: str | Path) -> None:
        self.model = SavedModel.load(folder)
        self.look = features.Look(**self.model.facts["features"]["look"])
        wanted = self.model.facts["features"]["weights"]
        self._weights = vgg.load_weights("auto" if wanted == vgg.DIGEST else "random")
        if self._weights.digest != wanted:
            why = "neither the published ones nor the untrained ones of the tests; train it again"
            trained = f"the model was trained on VGG-16 weights {wanted[:12]}..., which are"
            raise GenreUtilsError(f"{trained} {why}")
        self._made_of = {"model": self.model.digest, "code": code_digest(Predictor)}
        self._lock = threading.Lock()  # what limits BLAS' threads holds for the process

    def predict(self, files: dict[Path, str], jobs: int = 1) -> Iterator[Prediction]:
        """Answer `inputs.sound_files` in order, ``jobs`` at a time; a reason there refuses one."""
        work = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
        return work(joblib.delayed(self.predict_file)(*file) for file in files.items())

    def predict_file(self, path: str | Path, refused: str = "") -> Prediction:
        """Listen to a whole file; one that cannot be used comes back refused, with the reason."""
        path = Path(path)
        if refused:
            return Prediction(path, refused)
        try:
            heard = self._heard(path)
        except (audio.AudioError, ValueError) as error:  # ValueError: too short, the only window
            return Prediction(path, getattr(error, "reason", str(error)))
        windows = pd.DataFrame(heard["proba"], columns=list(self.model.classes))
        if windows.isna().all(axis=None):
            return Prediction(path, "silent")
        mean = windows.mean()
        windows.insert(0, "start_s", heard["start_s"])
        return Prediction(path, "", str(mean.idxmax()), float(mean.max()), mean, windows)

    def explain(self, mel: np.ndarray, genre: str, patches: tuple[int, int]) -> list[np.ndarray]:
        """Return grad_cam and occlusion, [216, 626] as ``mel``, which is on ``look``'s scale."""

        def make() -> Arrays:
            arrays, image = self._weights.arrays, self._image(mel)
            network = explain.Network(arrays, self.model.head, mel.shape, self.look.preprocessing)
            occlusion = explain.occlusion(network, image, genre, patches)
            return {"gradient": explain.grad_cam(network, image, genre), "occlusion": occlusion}

        key = {"mel": joblib.hash(mel), "genre": genre, "patches": list(patches)}
        maps = self._kept("explained", key, make)
        return [maps["gradient"], maps["occlusion"]]

    def _kept(self, name: str, key: dict, make: Callable[[], Arrays]) -> Arrays:
        """Return what was made of the same by this model and code, or make it."""
        path = cache_dir() / "arrays" / "folds" / f"{name}-{digest(key | self._made_of)[:24]}.npz"
        return remembered(path, make)

    def _heard(self, path: Path) -> Arrays:
        """Start [n] and probabilities [n, n_classes] of each window."""

        def hear() -> Arrays:
            proba = {start: self._window(y) for start, y in audio.windows(path)}
            return {"start_s": np.array(list(proba)), "proba": np.array(list(proba.values()))}

        if not (sound := datasets.digest_if_readable(path)):
            return hear()  # which says why it cannot be read
        return self._kept("heard", {"sound": sound}, hear)

    def _window(self, y: np.ndarray) -> np.ndarray:
        """Probabilities [n_classes] of one window; NaN if it is silent."""
        try:
            y = audio.cut(y, fill=self.look.fill)
        except ValueError as error:
            if str(error) != "silent":
                raise
            return np.full(len(self.model.classes), np.nan)
        image = self._image(features.mel_spectrogram(y, scale=self.look.mel_scale))
        with self._lock:
            blocks = self._blocks  # built by the first
        # One window at a time: its numbers do not depend on what else is in a batch, and an image
        # is large enough to keep all processors busy.
        rows = blocks(vgg.preprocess(image[None], self.look.preprocessing))[-1].astype(np.float16)
        with self._lock:
            return self.model.predict_proba(rows)[0]

    def _image(self, mel: np.ndarray) -> np.ndarray:
        return features.to_image(mel, "mel", scale=self.look.mel_scale, channels=self.look.channels)

    @cached_property
    def _blocks(self) -> vgg.Blocks:
        # A model of bfloat16 maps takes float32 where the processor has no bfloat16.
        exact = self.model.facts["features"]["precision"] == "float32"
        precision = vgg.trunk_precision(self._weights, "float32" if exact else "auto").precision
        return vgg.build_blocks((*paper.SHAPES["mel"], 3), self._weights.arrays, precision)


def answer(
    folder: str | Path, places: Iterable[str | Path], *, form: str = "table", jobs: int = 1
) -> int:
    """Print what the model in ``folder`` says of sound files; return how many were refused.

    ``places`` are those of `inputs.sound_files`, ``form`` is one of table, csv, json. The answers
    go to the standard output, all else to the standard error. ``jobs`` files are heard at a time.
    """
    found, passed = inputs.sound_files(places)
    predictor = Predictor(folder)
    print(f"model: {summary(predictor.model)}", file=sys.stderr)
    answers = list(progress(predictor.predict(found, jobs), "listening", len(found), "file"))
    refused, n = sum(bool(said.refused) for said in answers), len(answers) + sum(passed.values())
    print(_printed(answers, list(predictor.model.classes), form), flush=True)
    total = f"{n} file{'s' * (n > 1)} = {len(answers) - refused} predicted + {refused} refused"
    print(total + inputs.and_passed(passed, " + "), file=sys.stderr)
    return refused


def printable(path: Path) -> str:
    """Return a path as one line that any terminal prints, whatever bytes its name has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _printed(answers: list[Prediction], classes: list[str], form: str) -> str:
    """Answers as a table to read, CSV or JSON."""
    rows, records = [], []
    for said in answers:
        path, line = printable(said.path), f"refused: {said.refused}"
        record = {"refused": said.refused}
        if not said.refused:
            (first, p), (second, q) = said.probabilities.nlargest(2).items()
            line = f"{first:<{max(map(len, classes))}}  {p:.2f}  (then {second} {q:.2f})"
            windows = json.loads(said.windows.to_json(orient="records", double_precision=6))
            record = {"genre": said.genre, "confidence": round(said.confidence, 6)}
            record |= {"probabilities": said.probabilities.round(6).to_dict(), "windows": windows}
        rows.append((path, line))
        records.append({"path": path} | record)
    if form == "table":
        width = max(len(path) for path, _ in rows)
        return "\n".join(f"{path:<{width}}  {line}" for path, line in rows)
    if form == "json":
        return json.dumps(records, indent=1, ensure_ascii=False)
    columns = {f"probabilities.{name}": f"p_{name}" for name in classes}
    table = pd.json_normalize(records, max_level=1)
    table = table.reindex(columns=["path", "genre", "confidence", *columns, "refused"])
    table = table.rename(columns=columns)
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n").rstrip("\n")
