"""Tables of results: Table 1 with intervals, systems beyond the paper, the learning curve."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from genre_utils import paper
from genre_utils.metrics import evaluate, intervals
from genre_utils.store import ROOT

FIGURES = ROOT / "figures"
# Published sets, real music first.
TITLES = {
    "magnatune-emotify": "real Magnatune",
    "magnatune-genres": "real Magnatune (own genres)",
    "demo": "demo corpus (synthesised)",
    "demo-large": "large demo corpus (synthesised), of the paper's size",
}
SONG = {name: f"song_{name}" for name in ("accuracy", "accuracy_lo", "accuracy_hi", "f_score")}
SONG |= {"n_clips": "n_songs"}
REFERENCE = next(iter(paper.TABLE1))  # cnn-mel
LEADS = ["lead", "lead_lo", "lead_hi", "song_lead", "song_lead_lo", "song_lead_hi", "song_lead_p"]


def page(
    table: pd.DataFrame,
    heading: str,
    title: str,
    note: str = "",
    right: Sequence = (),
    bold: str = "",
) -> str:
    """Return a table of texts in Markdown, under a heading; all texts are shown as they are.

    ``title`` names the data, ``note`` is what must be said of them; ``right`` names the columns
    that are aligned to the right, ``bold`` one that is bold.
    """
    said = f" ({plain(note)})" if note and note != title else ""
    align = ["right" if column in right else "left" for column in table]
    cells = table.map(plain)
    if bold:
        cells[bold] = "**" + cells[bold] + "**"
    text = cells.to_markdown(index=False, disable_numparse=True, colalign=align)
    return f"**{plain(f'{heading} on {title}')}**{said}\n\n{text}\n"


def plain(text: str) -> str:
    """Escape what Markdown, its tables, HTML or TeX would take for their own, in one line."""
    return re.sub(r"[\\`*_\[\]<>|$~]|&(?=#?\w+;)", r"\\\g<0>", " ".join(text.split()))


def table1(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    f_average: str = "macro",
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute Table 1 for clips and for songs, each with 95 % intervals over artists.

    ``predictions`` are rows of predictions.csv; of the clip table ``clips`` artists are what the
    bootstrap draws, tracks are what votes. Returns the columns of `evaluate.score_table`, then
    accuracy_lo, accuracy_hi, f_score_lo, f_score_hi, n_artists, then song_accuracy,
    song_accuracy_lo, song_accuracy_hi, song_f_score, n_songs.
    """
    bootstrap = {"f_average": f_average, "n_resamples": n_resamples, "seed": seed}
    one = {"on": evaluate.KEY, "validate": "one_to_one"}
    songs = evaluate.song_level(predictions, clips).assign(fold=0)
    of_clips, of_songs = (
        evaluate.score_table(answers, f_average).merge(
            intervals.cluster_intervals(answers, clips, **bootstrap), **one
        )
        for answers in (predictions, songs)
    )
    of_songs = of_songs[[*evaluate.KEY, *SONG]].rename(columns=SONG)
    return of_clips.merge(of_songs, **one)


def beside_the_paper(columns: dict[str, list[str]]) -> pd.DataFrame:
    """Return the paper's accuracy / F-score of its four systems, and `paper_rows` beside them."""
    own = [f"{accuracy:.2f} / {f_score:.2f}" for accuracy, f_score in paper.TABLE1.values()]
    return pd.DataFrame({"the paper": own} | columns, index=list(paper.SYSTEM_LABELS.values()))


def paper_rows(table: pd.DataFrame, protocol: str) -> list[str]:
    """Accuracy, its interval and F-score of the paper's four systems, in its order, as texts."""
    rows = table[table["protocol"] == protocol].set_index("system").loc[list(paper.TABLE1)]
    return [f"{_interval(row, 'accuracy')} / {row.f_score:.2f}" for row in rows.itertuples()]


def markdown(table: pd.DataFrame, title: str, note: str = "") -> str:
    """Write Table 1 for people, in Markdown: accuracies with their intervals."""
    rows = [
        {
            **_names(row),
            "accuracy (95 %)": _interval(row, "accuracy"),
            "F-score": f"{row.f_score:.2f}",
            "by song (95 %)": _interval(row, "song_accuracy"),
            "the paper": "" if np.isnan(row.paper_accuracy) else f"{row.paper_accuracy:.2f}",
        }
        for row in table.itertuples()
    ]
    text = page(pd.DataFrame(rows), "Table 1", title, note, list(rows[0])[2:])
    sizes = table.iloc[0]
    artists = sizes.n_artists or "unknown"
    end = f"{sizes.n_clips} clips of {sizes.n_songs} songs by {artists} artists."
    part = table[(table["protocol"] == "published") & (table["n_clips"] != sizes.n_clips)]
    end += "".join(f" The published split tests {n} of them." for n in part["n_clips"][:1])
    return f"{text}\n{end}\n"


def spread(drawn: Sequence[pd.DataFrame], clips: pd.DataFrame) -> pd.DataFrame:
    """Average the scores of several draws of folds and seeds, ``drawn`` rows of predictions.csv.

    Returns system, protocol, the means accuracy, f_score, song_accuracy, song_f_score, the
    interval of the mean accuracy for other artists (accuracy_lo, accuracy_hi; a clip counts once a
    draw), and of the accuracies sd, lowest, highest and their number, draws.
    """
    key, scores = evaluate.KEY, []
    for table in drawn:
        songs = evaluate.song_level(table, clips).assign(fold=0)
        of_songs = evaluate.score_table(songs)[[*key, "accuracy", "f_score"]].rename(columns=SONG)
        scores.append(evaluate.score_table(table).merge(of_songs, on=key))
    known = pd.concat(scores).groupby(key, sort=False)
    names = ["accuracy", "f_score", "song_accuracy", "song_f_score"]
    apart = known["accuracy"].agg(sd="std", lowest="min", highest="max", draws="size")
    ends = intervals.cluster_intervals(pd.concat(drawn, ignore_index=True), clips).set_index(key)
    ends = ends[["accuracy_lo", "accuracy_hi"]]
    return known[names].mean().join([ends, apart]).round(6).reset_index()


def spread_markdown(table: pd.DataFrame, title: str, note: str = "") -> str:
    """Write the table of `spread` for people, in Markdown."""
    rows = [
        _names(row)
        | {
            "accuracy (95 %)": _interval(row, "accuracy"),
            "lowest to highest, sd": f"{row.lowest:.2f} to {row.highest:.2f}, {row.sd:.3f}",
            "F-score": f"{row.f_score:.2f}",
            "by song": f"{row.song_accuracy:.2f}",
            "F by song": f"{row.song_f_score:.2f}",
        }
        for row in table[table["draws"] > 1].itertuples()  # rules without music have one
    ]
    heading = f"Means over {table['draws'].max()} draws of folds and seeds"
    return page(pd.DataFrame(rows), heading, title, note, list(rows[0])[2:])


def _names(row: tuple) -> dict[str, str]:
    return {"system": paper.LABELS.get(row.system, row.system), "protocol": row.protocol}


def _interval(row: tuple, name: str) -> str:
    value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_lo", "_hi"))
    return f"{value:.2f} ({low:.2f}–{high:.2f})"


def beyond_table(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    *,
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Table 1's numbers for any systems, and their lead over ``cnn-mel``.

    A system that was tested in some folds only is compared with ``cnn-mel`` in these, so
    ``predictions`` have rows of ``cnn-mel`` under each protocol. Returns `table1`'s columns without
    the paper's, then lead, lead_lo, lead_hi (difference of the accuracies of clips, 95 % by
    artists), song_lead, song_lead_lo, song_lead_hi (of songs), song_lead_p (two-sided, by artists,
    after Holm within the protocol); the leads of ``cnn-mel`` itself are NaN.
    """
    bootstrap = {"n_resamples": n_resamples, "seed": seed}
    table = table1(predictions, clips, **bootstrap)
    table = table.drop(columns=["paper_accuracy", "paper_f_score"])
    together: dict[tuple, list[str]] = {}  # a protocol and its folds -> systems tested in these
    for (system, protocol), part in predictions.groupby(evaluate.KEY, sort=False):
        together.setdefault((protocol, *sorted(part["fold"].unique())), []).append(system)
    leads = {}
    for (protocol, *folds), systems in together.items():
        part = predictions[predictions["protocol"] == protocol]
        part = part[part["system"].isin([*systems, REFERENCE]) & part["fold"].isin(folds)]
        pairs = [(system, REFERENCE) for system in systems if system != REFERENCE]
        if pairs:
            songs = evaluate.song_level(part, clips)
            compared = [intervals.compare(p, clips, pairs, **bootstrap) for p in (part, songs)]
            for clip, song in zip(*(c.itertuples() for c in compared), strict=True):
                ends = [end for row in (clip, song) for end in (row.difference, row.lo, row.hi)]
                leads[clip.first, protocol] = (*ends, song.p_artist)
    nothing = (np.nan,) * len(LEADS)
    keys = zip(table["system"], table["protocol"], strict=True)
    table[LEADS] = np.array([leads.get(key, nothing) for key in keys])
    p = table["song_lead_p"].dropna()
    table["song_lead_p"] = p.groupby(table["protocol"]).transform(intervals.holm)
    return table.round(dict.fromkeys(LEADS, 6))


def beyond_markdown(
    table: pd.DataFrame, title: str, seconds: dict[str, float], note: str = ""
) -> str:
    """Write the table of `beyond_table` for people, in Markdown.

    ``title`` and ``note`` are as for `page`; ``seconds`` is how long training and testing took, by
    system.
    """
    rows = []
    for row in table.itertuples():
        lead, p = "", ""
        if not np.isnan(row.song_lead):
            lead = f"{row.song_lead:+.2f} ({row.song_lead_lo:+.2f} to {row.song_lead_hi:+.2f})"
            p = f"{row.song_lead_p:.2g}"
        cells = {
            "folds": str(row.n_folds),
            "accuracy (95 %)": _interval(row, "accuracy"),
            "by song (95 %)": _interval(row, "song_accuracy"),
            "F by song": f"{row.song_f_score:.2f}",
            "lead over CNN+Mel by song (95 %)": lead,
            "p (Holm)": p,
            "time": f"{seconds[row.system]:.0f} s" if row.system in seconds else "",
        }
        rows.append(_names(row) | cells)
    text = page(pd.DataFrame(rows), "Beyond the paper", title, note, list(rows[0])[2:])
    both = ("", ", both protocols", ", all protocols")[min(table["protocol"].nunique(), 3) - 1]
    return f"{text}\nTime: training and testing of all its folds{both}, two cores.\n"


def learning_curve(
    predictions: pd.DataFrame,
    clips: pd.DataFrame,
    *,
    n_resamples: int = intervals.N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy by song over the number of artists, and a line through it.

    No corpus shows what a larger one would give, but a smaller part of it shows how accuracy grows.
    The line is straight over the logarithm of the number of artists (least squares). Intervals are
    of a bootstrap over test artists. Which training artists are left out, and the seeds, are chance
    as well and not in them; several draws make it smaller.

    ``predictions`` are from `systems.with_fewer_artists`, of several systems. Returns system,
    train_size, n_artists (mean over folds and draws), accuracy, accuracy_lo, accuracy_hi (by song,
    mean over draws, 95 %), lowest, highest (of the single draws), lead, lead_lo, lead_hi (over the
    first system with as many artists); the same in all rows of a system: gain, gain_lo, gain_hi (of
    the line for twice as many artists), twice, twice_lo, twice_hi (the line's accuracy at twice the
    artists of the largest part; not measured). No rows where ``predictions`` has none.
    """
    if predictions.empty:
        return pd.DataFrame(columns=["system", "train_size", "n_artists", "accuracy"])
    tables, first = [], None
    for _, part in predictions.groupby("system", sort=False):
        table = part.groupby(["system", "train_size"], as_index=False)["n_artists"].mean()
        of_draws, resampled = _accuracies(part, clips, n_resamples, seed)
        mean = of_draws.mean(axis=1)
        first = first or (mean, resampled)
        table["accuracy"], table[["accuracy_lo", "accuracy_hi"]] = mean, _ends(resampled, mean)
        table["lowest"], table["highest"] = of_draws.min(axis=1), of_draws.max(axis=1)
        table["lead"] = mean - first[0]
        table[["lead_lo", "lead_hi"]] = _ends(resampled - first[1])
        line, lines = (_line(table["n_artists"], a) for a in (mean[:, None], resampled))
        for name, value, values in zip(("gain", "twice"), line, lines, strict=True):
            table[[name, f"{name}_lo", f"{name}_hi"]] = value[0], *intervals.percentile(values)
        tables.append(table)
    return pd.concat(tables, ignore_index=True).round(6)


def _accuracies(
    predictions: pd.DataFrame, clips: pd.DataFrame, n_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracies by song: each draw's [points, draws]; their mean, resampled [points, n]."""
    clusters, genres = intervals.artist_clusters(clips), sorted(set(predictions["y_true"]))
    of_draws, resampled = [], []
    for _, part in predictions.groupby("train_size"):
        songs = [evaluate.song_level(draw, clips) for _, draw in part.groupby("draw")]
        counts = np.array([intervals.confusion_counts(s, clusters, genres) for s in songs])
        of_draws.append(intervals.scores(counts.sum(axis=1))[0])
        drawn = intervals.draw(counts.shape[1], n_resamples, seed)
        # Each draw has the same songs, so the mean of counts has the mean accuracy.
        resampled.append(intervals.scores(intervals.resample(counts.mean(axis=0), drawn))[0])
    return np.array(of_draws), np.array(resampled)


def _ends(resampled: np.ndarray, estimates: np.ndarray | None = None) -> np.ndarray:
    """Return the ends [points, 2] of the intervals of resampled values [points, n]."""
    estimates = [None] * len(resampled) if estimates is None else estimates
    pairs = zip(resampled, estimates, strict=True)
    return np.array([intervals.percentile(values, estimate=e) for values, e in pairs])


def _line(n_artists: pd.Series, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope for a doubling and the value at twice the largest number, each [n]."""
    doublings = np.log2(n_artists.to_numpy())
    centred = doublings - doublings.mean()
    spread = centred @ centred
    slope = centred @ accuracy / spread if spread else np.full(accuracy.shape[1], np.nan)
    return slope, accuracy.mean(axis=0) + slope * (doublings.max() + 1 - doublings.mean())
