import numpy as np
import pandas as pd
import pytest

from genre_utils import claims, paper
from genre_utils.claims import ABSENT, FAILS, HOLDS, OPEN
from genre_utils.errors import GenreUtilsError
from genre_utils.reference_points import reference_points
from genre_utils.splits import make_splits

GENRES = ["Alt Rock", "Classical", "Jazz", "World"]
GOOD = {"cnn-mel": 0.96, "cnn-mfcc": 0.75, "cnn-chroma": 0.7, "svm-mfcc": 0.4}


def _corpus(accuracy, n_artists=12, n_clips=6, protocols=("random",), wrong=None, seed=0):
    """Predictions with the accuracies asked for; errors go to ``wrong[genre]`` or anywhere."""
    rng = np.random.default_rng(seed)
    rows = [(g, f"{g}{a}") for g in GENRES for a in range(n_artists) for _ in range(n_clips)]
    clips = pd.DataFrame(rows, columns=["genre", "artist"]).assign(album="al", status="ok")
    clips["clip_id"] = [f"{i:04d}" for i in range(len(clips))]
    clips = clips.assign(track=clips["clip_id"], start_s=0.0)
    splits = make_splits(clips, list(protocols), n_folds=4)
    tables = [reference_points(clips, splits)]
    for system, share in accuracy.items():
        for protocol in protocols:
            table = splits[splits["protocol"] == protocol].assign(system=system)
            table = table.assign(y_true=clips["genre"].to_numpy())
            right = rng.random(len(table)) < share
            other = [
                (wrong or {}).get(g) or rng.choice([x for x in GENRES if x != g])
                for g in table["y_true"]
            ]
            table["y_pred"] = np.where(right, table["y_true"], other)
            if system != "svm-mfcc":
                for genre in GENRES:
                    table[f"p_{genre}"] = np.where(table["y_pred"] == genre, 0.7, 0.1)
            tables.append(table)
    return clips, pd.concat(tables, ignore_index=True)


def _verdicts(clips, predictions):
    table = claims.judge(predictions, clips, "made up", n_resamples=2000)
    return table.assign(number=table["claim"].str[1].astype(int)).set_index("number")


def test_where_the_paper_is_right():
    corpus = _corpus(GOOD, n_clips=24, wrong={"Classical": "Jazz", "Jazz": "Classical"})
    found = _verdicts(*corpus)
    assert found.loc[[1, 2, 3, 4, 5, 6], "verdict"].tolist() == [HOLDS] * 6
    assert (found.loc[found.index != 6, "dataset"] == "made up").all()


def test_where_it_is_wrong():
    accuracy = {"cnn-mel": 0.5, "cnn-mfcc": 0.75, "cnn-chroma": 0.06, "svm-mfcc": 0.9}
    wrong = {"Alt Rock": "World", "World": "Alt Rock", "Classical": "World", "Jazz": "Alt Rock"}
    found = _verdicts(*_corpus(accuracy, wrong=wrong))
    assert found.loc[[1, 2, 3, 4, 5], "verdict"].tolist() == [FAILS] * 5
    assert "cnn-mel − svm-mfcc" in found.loc[1, "why"]
    assert "cnn-chroma − majority" in found.loc[3, "why"]
    assert found.loc[4, "why"].startswith("rank among 6 pairs: Classical/Jazz ")


def test_where_the_clips_do_not_tell():
    accuracy = dict.fromkeys(paper.TABLE1, 0.9)
    found = _verdicts(*_corpus(accuracy, n_artists=4, n_clips=3))
    assert found.loc[[1, 2, 3, 4, 5], "verdict"].tolist() == [OPEN] * 5
    assert "0.895 is inside the interval" in found.loc[5, "why"]
    assert found.loc[4, "why"].startswith("too few errors (")


def test_combined_systems_that_err_on_different_clips_help():
    clips, predictions = _corpus({"cnn-mel": 0.7, "cnn-mfcc": 0.7, "cnn-chroma": 0.7} | {
        "svm-mfcc": 0.4
    })  # fmt: skip
    assert _verdicts(clips, predictions).loc[7, "verdict"] == HOLDS
    mel = predictions[predictions["system"] == "cnn-mel"]
    rest = predictions[~predictions["system"].isin(["cnn-mfcc", "cnn-chroma"])]
    copies = [mel.assign(system=name) for name in ("cnn-mfcc", "cnn-chroma")]
    found = _verdicts(clips, pd.concat([rest, *copies]))
    assert found.loc[7, "verdict"] == OPEN
    assert "+0.00 [+0.00, +0.00]" in found.loc[7, "figure"]


def test_one_row_a_claim_and_protocol():
    clips, predictions = _corpus(GOOD, protocols=("random", "artist"))
    table = claims.judge(predictions, clips, "made up", n_resamples=500)
    assert tuple(table.columns) == claims.COLUMNS
    assert len(table) == 2 * 6 + 1
    assert table["claim"].nunique() == len(claims.CLAIMS) == 7
    assert table["claim"].is_monotonic_increasing
    assert table["verdict"].isin([HOLDS, FAILS, OPEN, ABSENT]).all()
    assert (table != "").all(axis=None)
    assert table.equals(claims.judge(predictions, clips, "made up", n_resamples=500))


def test_the_artist_oracle_is_held_against_the_paper_s_protocol_only():
    found = claims.judge(*_corpus(GOOD, protocols=("random", "artist"))[::-1], "made up")
    why = found[found["claim"].str.startswith("(5)")].set_index("protocol")["why"]
    assert "knowing the artist alone scores 1.00" in why["random"]
    assert "knowing" not in why["artist"]
    clips, predictions = _corpus(GOOD)
    without = predictions[predictions["system"] != "oracle-artist"]
    assert "knowing" not in _verdicts(clips, without).loc[5, "why"]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.895, 0.95, HOLDS),
        (0.894, 0.95, OPEN),
        (0.8, 0.895, OPEN),
        (0.8, 0.894, FAILS),
    ],
)
def test_the_edges_of_0_90(low, high, verdict):
    assert claims.accuracy_verdict(0.895, low, high, np.nan).verdict == verdict


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([(0.1, 0.049), (0.2, 0.001)], HOLDS),
        ([(0.1, 0.05), (0.2, 0.001)], OPEN),
        ([(-0.1, 0.9), (0.2, 0.001)], OPEN),
        ([(0.1, 0.9), (-0.2, 0.001)], FAILS),
    ],
)
def test_comparisons_are_judged_by_the_adjusted_p(rows, verdict):
    pairs = [("a", "b"), ("a", "c")]
    table = pd.DataFrame(rows, columns=["difference", "p_artist_holm"])
    table = table.assign(first="a", second=["b", "c"], lo=0.0, hi=0.3)
    assert claims.compare_verdict(table, pairs).verdict == verdict


def test_pair_rates_of_the_papers_figure_3():
    rates = claims.pair_rates(paper.FIG3.astype(float))
    pairs = list(zip(*np.triu_indices(9, 1), strict=True))
    of = {(paper.GENRES[i], paper.GENRES[j]): r for (i, j), r in zip(pairs, rates, strict=True)}
    assert of["Classical", "Jazz"] == 6.0 == rates.max()
    assert of["Electro Rock", "Electronica"] == of["Ambient", "New Age"] == 4.0
    assert of["Jazz", "World"] == 4.0  # as often as two of the named pairs; the paper is silent


def test_a_genre_without_clips_leaves_its_pairs_out():
    rates = claims.pair_rates(np.array([[8.0, 2, 0], [0, 0, 0], [1, 0, 3]]))
    assert np.isnan(rates[[0, 2]]).all()
    assert rates[1] == 12.5
    named = np.array([True, False, False])
    assert np.isnan(claims._contrast(rates, named))
    both = np.array([[6.0, 1.0, 3.0], rates])
    assert claims._contrast(both, named).tolist()[0] == 4.0


def test_without_the_named_genres_nothing_is_said():
    clips, predictions = _corpus(GOOD)
    names = {"Classical": "Folk", "Jazz": "Blues"}
    renamed = predictions.replace({"y_true": names, "y_pred": names})
    renamed = renamed.rename(columns={f"p_{old}": f"p_{new}" for old, new in names.items()})
    assert _verdicts(clips, renamed).loc[4, "verdict"] == ABSENT


def test_the_papers_own_figures():
    found = claims.figures_agree()
    assert found.verdict == HOLDS
    assert found.figure == "404/450 = 0.898 [0.87, 0.92], macro F 0.897"


def test_every_row_is_in_the_markdown():
    clips, predictions = _corpus(GOOD)
    table = claims.judge(predictions, clips, "made up", n_resamples=200)
    text = claims.claims_markdown(table, "made up", "untrained VGG-16")
    assert text.startswith("**The paper's claims on made up** (untrained VGG-16)\n\n| claim")
    rows = text.splitlines()[4:]
    assert len(rows) == len(table)
    for row, line in zip(table.itertuples(), rows, strict=True):
        assert line.count("|") == 8
        assert f"**{row.verdict}**" in line


def test_a_missing_system_is_named():
    clips, predictions = _corpus(GOOD)
    some = predictions[~predictions["system"].isin(["cnn-chroma", "majority"])]
    with pytest.raises(GenreUtilsError, match="no predictions of cnn-chroma, majority"):
        claims.judge(some, clips, "made up")
