import librosa
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.multiclass import OneVsOneClassifier
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from genre_utils.models import svm
from genre_utils.runtime import UsageError


def _clouds(n_classes=4, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=4, size=(n_classes, 6))
    y = np.repeat([f"genre {i}" for i in range(n_classes)], 40)
    return np.repeat(centres, 40, axis=0) + rng.normal(scale=spread, size=(len(y), 6)), y


def test_frames_under_40_db_of_the_loudest_are_removed():
    level = np.array([-10.0, -49.9, -50.1, -100, -50.0])
    assert svm.frame_mask(level).tolist() == [True, True, False, False, True]
    assert svm.frame_mask(level, -95.0).all()
    assert svm.frame_mask(np.full(5, -100.0)).all()  # never nothing
    assert svm.frame_mask(level, 10.0).sum() == 1


def test_the_clip_vector_by_hand():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 14, 6)).astype(np.float32)
    rows[:, 13] = [[0, -10, -50, -39, -41, -80], [-20, -20, -20, -20, -20, -61]]
    vectors = svm.clip_vectors(rows)
    assert vectors.shape == (2, 26)
    for i, kept in enumerate(([0, 1, 3], [0, 1, 2, 3, 4])):
        for c in range(13):
            values = rows[i, c, kept].astype(float)
            mean = values.sum() / len(values)
            assert vectors[i, c] == pytest.approx(mean)
            deviation = np.sqrt(((values - mean) ** 2).sum() / len(values))
            assert vectors[i, 13 + c] == pytest.approx(deviation)


def test_slopes_follow_the_vector():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, 14, 30)).astype(np.float32)
    rows[:, 13] = -10
    rows[1, 13, 5:12] = -60  # seven frames too soft
    found = svm.clip_vectors(rows, slopes=True)
    assert found.shape == (3, 52)
    assert np.array_equal(found[:, :26], svm.clip_vectors(rows))
    kept = np.r_[0:5, 12:30]
    slope = librosa.feature.delta(rows[1, :13].astype(float))[:, kept]
    assert np.allclose(found[1, 26:], np.concatenate([slope.mean(axis=1), slope.std(axis=1)]))


def test_code_matrix_of_three_classes_by_hand():
    assert svm.code_matrix(3).tolist() == [[1, 1, 0], [-1, 0, 1], [0, -1, -1]]
    assert svm.code_matrix(3, "onevsall").tolist() == [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]


def test_code_matrix_of_the_papers_nine_genres():
    matrix = svm.code_matrix(9)
    assert matrix.shape == (9, 36)
    assert (np.abs(matrix).sum(axis=0) == 2).all()
    assert (matrix.sum(axis=0) == 0).all()
    assert (np.abs(matrix).sum(axis=1) == 8).all()
    assert len({tuple(np.flatnonzero(column)) for column in matrix.T}) == 36


def test_votes_by_hand():
    """Three classes, columns (0,1), (0,2), (1,2)."""
    matrix = svm.code_matrix(3)
    scores = np.array([[0.5, 0.5, -2.0], [-3.0, -3.0, 0.1], [0.0, 0.0, 0.0]])
    # class 0: (0.25 + 0.25)/2; class 1: (0.75 + 1.5)/2; class 2: (0.75 + 0)/2
    # second row: class 1 has (0 + 0.45)/2, class 2 has (0 + 0.55)/2
    assert svm.losses(scores, matrix).argmin(axis=1).tolist() == [0, 1, 0]


def test_decoding_against_another_formulation():
    rng = np.random.default_rng(1)
    for n in (3, 5, 9):
        for coding in svm.CODINGS:
            matrix = svm.code_matrix(n, coding)
            scores = rng.normal(scale=2, size=(50, matrix.shape[1]))
            for row, found in zip(scores, svm.losses(scores, matrix), strict=True):
                loss = []
                for code in matrix:
                    terms = [max(0, 1 - m * s) / 2 for m, s in zip(code, row, strict=True) if m]
                    loss.append(sum(terms) / len(terms))
                assert np.allclose(loss, found)


def test_learners_are_the_pairwise_svms_of_scikit_learn():
    X, y = _clouds()
    ours = svm.EcocSVM().fit(X, y)
    theirs = OneVsOneClassifier(SVC(kernel="linear", C=1)).fit(X, y)
    # scikit-learn counts the second of a pair as positive.
    expected = np.column_stack([-e.decision_function(X) for e in theirs.estimators_])
    assert np.allclose(ours.scores(X), expected, atol=0.02)
    assert (ours.predict(X) == theirs.predict(X)).mean() > 0.99
    assert (ours.predict(X) == y).mean() > 0.95


def test_no_standardisation():
    """MATLAB's default: a coordinate of large range rules."""
    X, y = _clouds(n_classes=2, spread=0.1)
    noise = np.random.default_rng(2).normal(scale=1e4, size=(len(X), 1))
    fitted = svm.EcocSVM().fit(np.hstack([X * 1e-6, noise]), y)
    assert (fitted.predict(np.hstack([X * 1e-6, noise])) == y).mean() < 0.8


def test_one_against_all_and_scikit_learns_conventions():
    X, y = _clouds()
    fitted = svm.EcocSVM("onevsall").fit(X, y)
    assert fitted.code_matrix_.shape == (4, 4)
    assert list(fitted.classes_) == sorted(set(y))
    assert (fitted.predict(X) == y).mean() > 0.9
    assert clone(fitted).get_params() == {"coding": "onevsall", "C": 1.0}


def test_errors_are_clear():
    X, y = _clouds()
    with pytest.raises(UsageError, match="unknown coding 'dense': one of onevsone, onevsall"):
        svm.EcocSVM("dense").fit(X, y)
    with pytest.raises(ValueError, match="at least two classes"):
        svm.EcocSVM().fit(X[:5], y[:5])


@parametrize_with_checks([svm.EcocSVM(), svm.EcocSVM("onevsall")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
