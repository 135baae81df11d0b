import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile

from genre_utils import paper
from genre_utils.data import splits
from genre_utils.errors import UsageError
from genre_utils.extraction import features
from genre_utils.metrics import evaluate
from genre_utils.models import fair_svm


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    swell = 0.2 + 0.1 * np.sin(np.arange(320_000) / 9_000)
    return (swell * rng.normal(size=320_000)).astype(np.float32)


def test_frames_of_20_s_are_those_of_the_whole_signal(noise):
    found = fair_svm.frames(noise)
    assert found.shape == (14, (320_000 - 3200) // 1280 + 1) == (14, 248)
    assert np.array_equal(found[:, :123], features.svm_frames(noise))
    p = paper.SVM
    mel = librosa.feature.melspectrogram(
        y=noise, sr=16000, n_fft=p["n_fft"], hop_length=p["hop_length"], window="hamming",
        n_mels=p["n_mels"], center=False,
    )  # fmt: skip
    whole = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=13)
    assert np.allclose(found[:13], whole, atol=1e-3)


def test_the_vector_by_hand():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, 14, 30)).astype(np.float32)
    rows[:, 13] = -10
    rows[1, 13, 5:12] = -60  # seven frames too soft
    found = fair_svm.vectors(rows)
    assert found.shape == (3, 52)
    kept = np.r_[0:5, 12:30]
    slope = librosa.feature.delta(rows[1, :13].astype(float))[:, kept]
    mfcc = rows[1, :13, kept].T.astype(float)
    by_hand = [mfcc.mean(axis=1), mfcc.std(axis=1), slope.mean(axis=1), slope.std(axis=1)]
    assert np.allclose(found[1], np.concatenate(by_hand))


def test_frames_are_stored_once(noise, tmp_path, monkeypatch):
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for i, file in enumerate(files):
        soundfile.write(file, noise[: 16_000 * (5 + i)], 16_000)
    store = fair_svm.stored_frames(files, ["a", "b"], tmp_path)
    assert store.load(["b", "a"]).shape == (2, 14, 248)
    monkeypatch.setattr(fair_svm, "frames", None)  # a second extraction would fail
    again = fair_svm.stored_frames(files, ["a", "b"], tmp_path)
    assert np.array_equal(again.load(["a", "b"]), store.load(["a", "b"]))


def test_two_workers_store_what_one_stores(noise, tmp_path):
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for i, file in enumerate(files):
        soundfile.write(file, np.roll(noise, 777 * i), 16_000)
    one, two = (
        fair_svm.stored_frames(files, ["a", "b"], tmp_path / str(jobs), jobs=jobs).load(["a", "b"])
        for jobs in (1, 2)
    )
    assert np.array_equal(one, two)


def _corpus(n_artists=8, n_clips=4, seed=0):
    """Rings around one centre: no straight line parts them, and one coordinate is far too loud."""
    rng = np.random.default_rng(seed)
    rows, x = [], []
    for radius, genre in ((1, "A"), (3, "B"), (5, "C")):
        for artist in range(n_artists):
            for track in range(n_clips):
                rows.append((genre, f"{genre}{artist}", "al", f"t{track}"))
                angle = rng.uniform(0, 2 * np.pi)
                size = radius + rng.normal(scale=0.2)
                x.append([size * np.cos(angle), size * np.sin(angle), rng.normal(scale=100)])
    clips = pd.DataFrame(rows, columns=["genre", "artist", "album", "track"])
    clips.insert(0, "clip_id", [f"{i:04d}" for i in range(len(clips))])
    return np.array(x), clips.assign(status="ok")


@pytest.fixture(scope="module")
def result():
    x, clips = _corpus()
    table = splits.make_splits(clips, ["random", "artist"], n_folds=4)
    return x, clips, table, fair_svm.cross_validate(x, clips, table)


def test_each_clip_is_tested_once_and_rings_are_told_apart(result):
    _, _, table, (predictions, chosen) = result
    evaluate.check_predictions(predictions, table, [fair_svm.SYSTEM])
    assert (evaluate.table1(predictions)["accuracy"] > 0.6).all()
    assert len(chosen) == 8
    assert set(chosen["C"]) <= set(fair_svm.GRID["svc__C"])
    assert chosen["inner_accuracy"].between(0.4, 1).all()


def test_same_again_in_any_number_of_processes(result):
    x, clips, table, (predictions, chosen) = result
    again, chosen_again = fair_svm.cross_validate(x, clips, table, jobs=2)
    assert predictions.equals(again)
    assert chosen.equals(chosen_again)


def test_test_clips_take_no_part_in_any_choice(result):
    """Spoiling the labels of one fold changes no answer on that fold."""
    x, clips, table, (predictions, _) = result
    mine = table[(table["protocol"] == "artist") & (table["fold"] == 1)]
    spoilt = clips["clip_id"].isin(mine["clip_id"])
    other = clips.assign(genre=clips["genre"].mask(spoilt, "A"))
    again, _ = fair_svm.cross_validate(x, other, table[table["protocol"] == "artist"])
    one, two = (
        p[(p["protocol"] == "artist") & (p["fold"] == 1)].set_index("clip_id")["y_pred"]
        for p in (predictions, again)
    )
    assert one.equals(two)


@pytest.mark.parametrize("protocol", list(splits.PROTOCOLS))
def test_inner_folds_follow_the_protocol(protocol):
    _, clips = _corpus()
    group = splits.groups(clips, protocol).to_numpy()
    train = np.arange(len(clips)) % 16 < 12
    inner = fair_svm._inner_folds(clips["genre"], group, train, protocol, 0)
    tested = np.concatenate([test for _, test in inner])
    assert sorted(tested) == list(range(train.sum()))
    for fit, test in inner:
        assert not set(fit) & set(test)
        assert not set(group[train][fit]) & set(group[train][test])


def test_too_few_groups_are_refused():
    x, clips = _corpus(n_artists=2)
    few = clips[clips["genre"] != "C"]
    table = splits.make_splits(few, ["artist"], n_folds=2)
    with pytest.raises(UsageError, match="fewer than 3 groups"):
        fair_svm.cross_validate(x[: len(few)], few, table)
