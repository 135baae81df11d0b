"""The page on scale: what the measured costs mean for 5,000 and for 100 million clips."""

import pandas as pd

from genre_utils import paper
from genre_utils.benchmark.report import number, processor
from genre_utils.extraction import features, vgg
from genre_utils.extraction import features as batch

SIZES = {"the paper's": paper.N_CLIPS, "FMA-full": 106_574, "10^8": 100_000_000}
COSTS = {"features": "cost: features", "trunk": "cost: trunk"}
STORED = {
    "sound files": "storage: sound files",
    "features": "storage: features",
    "maps": "storage: maps",
}
EPOCHS, STEP = paper.TRAINING["epochs"], paper.TRAINING["batch_size"]
SHARD_BYTES = 10**9  # of an object in the layout that is proposed

PAGE = """# From 5,000 clips to 100 million

{machine}. Everything below follows from `benchmark.csv`: costs per clip as measured there, times
the number of clips. Nothing was run at that size, and no GPU was measured.

| core-hours | core-seconds a clip | {names} |
|---|--:|--:|--:|--:|
{cost_rows}

| terabytes | bytes a clip | {names} |
|---|--:|--:|--:|--:|
{stored_rows}

FMA-full stands for one 20-second clip of each of its 106,574 tracks. The trunk takes
{trunk_share:.0%} of the work before training; it runs once per clip, is independent from clip to
clip and divides over any number of workers (`--scheduler`). At 10^8 clips it would keep 1,000 cores
busy for {trunk_days} days. Training for {epochs} epochs would be wrong at that size, not only
expensive: the paper's experiment is {paper_steps} steps of {step} clips, one single pass over 10^8
clips is {pass_steps}. One pass, in the table, is what one would pay.

## What breaks first

1. **Maps in memory.** Maps stay on disk until a fold of the head's training reads those of its
   training part, whole. They alone fill this machine's memory at some {clips_in_memory} clips;
   FMA-full needs up to {fma_maps} GB for them. Until then memory is no concern ({head_memory} GB at
   {n_clips}).
2. **Number of files.** A shard holds {shard} maps or {chunk} clips' features, two files each: at
   10^8 clips {map_files} files of maps and {feature_files} of features, all listed whenever a store
   is opened. A file system that lists 10,000 names a second needs {list_hours} hours for that.
3. **Shuffling.** A new order in each epoch reads single maps of {map_kb} kB from random places:
   10^8 random reads a pass. From memory that is nothing; from disks or object storage, where a
   request takes milliseconds, it costs more than the training.
4. **Joining labels.** Clip table, folds and predictions are CSV files read whole into memory, one
   row a clip with several names: fine for 10^5 rows, not for 10^8.
5. **Comparing all with all.** Duplicates by sound look at all pairs of clips. From 1,000 to 4,000
   clips the time per clip of that comparison grew by a factor of {pairs_growth}; above 10^5 clips
   it needs an index (hashed fingerprints) in its place. Exact duplicates and names are grouped, not
   compared, and stay linear.

## A layout for it

- Shards of about 1 GB ({clips_per_object} maps, so {objects} objects for 10^8 clips) on object
  storage, read and written through fsspec. A shard is still a NumPy file named by its rows'
  digests; one manifest (Parquet: digest, shard, row, genre, artist, fold) takes the place of a
  `.json` beside each. `Store` is the only module that knows about files, so only `Store` changes.
- Clips are put into shards in random order once, when they are written. An epoch takes the shards
  in random order and shuffles within a buffer of a few of them: large sequential reads, an order
  nearly as good, memory of a few GB at any number of clips.
- Labels and fold travel with the row in the manifest; the fold comes from a hash of the artist's
  name, so that no table of all clips is needed to draw it.
- The head is trained on the stream. Its {weights} million weights and Adam's moments do not grow
  with the number of clips; several heads (folds) can share one stream and its cost of reading.
- Features need not be kept: making them again costs {features_share:.0%} of the trunk's time,
  keeping them takes {features_tb} TB at 10^8 clips.
"""


def page(table: pd.DataFrame, machine: dict) -> str:
    """Write the page.

    Parameters
    ----------
    table : pd.DataFrame
        benchmark.csv.
    machine : dict
        benchmark.json.
    """
    ours = table.set_index("stage")["ours"]
    costs = {name: ours[stage] for name, stage in COSTS.items()}
    training = {
        "head, one fold, one pass": ours["cost: head"] / EPOCHS,
        f"head, one fold, {EPOCHS} epochs": ours["cost: head"],
        f"head, ten folds, {EPOCHS} epochs": 10 * ours["cost: head"],
    }
    stored = {name: ours[stage] for name, stage in STORED.items()}
    most = SIZES["10^8"]
    files = {
        "map": 2 * most / vgg.SHARD,
        "feature": 2 * most * len(features.EXTRACTORS) / batch.CHUNK,
    }
    per_object = SHARD_BYTES / stored["maps"]
    inputs = stored["maps"] / 2  # float16
    return PAGE.format(
        machine=processor(machine),
        epochs=EPOCHS,
        step=STEP,
        n_clips=f"{paper.N_CLIPS:,}",
        names=" | ".join(f"{name}: {n:,}" for name, n in SIZES.items()),
        cost_rows=_rows(costs | training, 3600),
        stored_rows=_rows(stored, 1e12),
        trunk_share=costs["trunk"] / sum(costs.values()),
        trunk_days=number(costs["trunk"] * most / 1000 / 86400),
        paper_steps=number(EPOCHS * paper.N_CLIPS / STEP),
        pass_steps=number(most / STEP),
        clips_in_memory=number(machine["memory_gb"] * 1e9 / stored["maps"]),
        fma_maps=number(stored["maps"] * SIZES["FMA-full"] / 1e9),
        head_memory=number(ours["memory: head, one fold and epoch"]),
        shard=vgg.SHARD,
        chunk=batch.CHUNK,
        map_kb=number(stored["maps"] / 1e3),
        map_files=number(files["map"]),
        feature_files=number(files["feature"]),
        list_hours=number(sum(files.values()) / 10_000 / 3600),
        pairs_growth=number(ours["growth: comparing all pairs alone"]),
        clips_per_object=number(per_object),
        objects=number(most / per_object),
        weights=number(inputs * paper.HEAD["units"][0] / 1e6),
        features_share=costs["features"] / costs["trunk"],
        features_tb=number(stored["features"] * most / 1e12),
    )


def _rows(values: dict[str, float], unit: float) -> str:
    return "\n".join(
        f"| {name} | {number(value)} | "
        + " | ".join(number(value * n / unit) for n in SIZES.values())
        + " |"
        for name, value in values.items()
    )
