"""The model card: what a saved model is, what it has heard, how good it is, and its limits."""

from typing import TYPE_CHECKING, Any

from genre_utils import paper

if TYPE_CHECKING:
    from genre_utils.own.saved import SavedModel


def summary(model: "SavedModel") -> str:
    """Return one line: system, what it has heard, how good it was."""
    facts = model.facts
    data = facts["data"]
    heard = f"{data['clips']:,} clips of {data['title']}, {len(model.classes)} genres"
    return f"{facts['system']}, trained on {heard}; {accuracy(facts['estimate'])}{warning(facts)}"


def accuracy(estimate: dict[str, Any]) -> str:
    """Return the estimated accuracy in words, or why there is none."""
    if "none" in estimate:
        return f"its accuracy on new artists is not known: {estimate['none']}"
    low, high = estimate["accuracy_lo"], estimate["accuracy_hi"]
    return f"accuracy on new artists {estimate['accuracy']:.2f} ({low:.2f} to {high:.2f})"


def warning(facts: dict[str, Any]) -> str:
    """Return what makes the answers meaningless on real music; often nothing."""
    found = []
    if facts["data"]["synthetic"]:
        found.append("it has heard no real music")
    if facts["features"]["untrained"]:
        found.append("its VGG-16 is untrained")
    return f" ({', '.join(found)})" if found else ""


def card(model: "SavedModel") -> str:
    """Return the model card as Markdown."""
    facts = model.facts
    parts = [
        _what(model), _heard(facts["data"], facts["features"]["offset"]), _how_good(model),
        _limits(facts), _files(model),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _what(model: "SavedModel") -> str:
    facts = model.facts
    settings = "".join(f", {name} {value}" for name, value in facts["settings"].items())
    return f"""# A model that names music genres

{facts["about"][0].upper()}{facts["about"][1:]} (`{facts["system"]}`{settings}), \
after {" and ".join(paper.AUTHORS)}, *{paper.TITLE}* (2019). It answers with \
one of: {", ".join(model.classes)}.

```sh
python -m genre_utils predict THIS_FOLDER FILE_OR_FOLDER...
```"""


def _heard(data: dict[str, Any], offset: float) -> str:
    rows = "\n".join(
        f"| {genre} | {n['clips']} | {n['artists'] or 'not known'} |"
        for genre, n in data["genres"].items()
    )
    refused = sum(data["refused"].values())
    left = "".join(f"\n- {n} × {why}" for why, n in data["refused"].items())
    synthetic = "**Synthesised: no real music, no real artists.** " if data["synthetic"] else ""
    return f"""## What it has heard

{data["title"]}: 20 s, from second {offset:g} on, of each of {data["clips"]:,} clips. \
{synthetic}Licence of the \
audio: {data["licence"]}. Source: {data["citation"]}.

| genre | clips | artists |
|---|--:|--:|
{rows}

{f"{refused} clips of the data set were left out:{left}" if refused else "Nothing was left out."}"""


def _how_good(model: "SavedModel") -> str:
    estimate = model.facts["estimate"]
    if "none" in estimate:
        return f"""## How good it is

Not known. {estimate["none"][0].upper()}{estimate["none"][1:]}, so it could not be tested on \
artists that it had not heard. Its confidence is not calibrated."""
    sure = estimate["sure"]
    rows = "\n".join(f"| {genre} | {value:.2f} |" for genre, value in estimate["recall"].items())
    right = "none" if sure["accuracy"] is None else f"{sure['accuracy']:.2f}"
    low, high = estimate["accuracy_lo"], estimate["accuracy_hi"]
    return f"""## How good it is

Accuracy **{estimate["accuracy"]:.2f}** (95 % interval {low:.2f} to {high:.2f}, from a bootstrap \
over {estimate["n_artists"]} artists), macro F-score {estimate["f_score"]:.2f}; chance would be \
{1 / len(model.classes):.2f} if genres were even. Estimated on its own data set in \
{estimate["folds"]} folds over artists: each clip was named by a model that had not heard its \
artist. This model was then trained on all clips.

| genre | found |
|---|--:|
{rows}

Confidence is calibrated with one temperature, {model.temperature:.2f}, fitted on those same \
answers. Answers with a confidence of {sure["confidence"]:g} or more: {sure["share"]:.0%} of \
clips, accuracy among them {right}."""


def _limits(facts: dict[str, Any]) -> str:
    untrained = (
        "\n- Its VGG-16 has random weights: a model for tests, whose answers mean nothing."
        if facts["features"]["untrained"]
        else ""
    )
    return f"""## Limits

- Whatever it hears, speech or noise too, it answers with one of its genres.
- Music of other places, times or recording techniques than its data set's was never tested.
- The figures above are for clips of 20 s of that data set, and for nothing else; a whole song's \
answer is the mean over windows of 20 s.
- Whether a model may be shared depends on the licence of the audio that it was trained \
on.{untrained}"""


def _files(model: "SavedModel") -> str:
    facts = model.facts
    size = sum(array.nbytes for array in model.arrays.values()) / 1e6
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"""## Files

`arrays.npz` ({size:.1f} MB of plain arrays, no code), `model.json` (what they are, and their \
SHA-256). VGG-16's own weights are not in it: they are fetched where they are needed and must have \
the digest {facts["features"]["weights"][:16]}... Made with {versions}."""
