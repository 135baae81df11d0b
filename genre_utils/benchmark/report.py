"""The measured table for people and for programs: CSV, JSON, Markdown, a picture."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from genre_utils.benchmark.rows import COLUMNS, Row, frame
from genre_utils.plots.clip_figures import GREEN, ORANGE, canvas, finish, save, styled
from genre_utils.store import write_json, write_text

SHOWN = (0.1, 1000)  # margins beyond these are drawn at the edge


def write(rows: list[Row], machine: dict, folder: Path) -> str:
    """Write benchmark.csv, .json (the machine), .md and .png; return the Markdown."""
    write_text(folder / "benchmark.csv", frame(rows).to_csv(index=False, lineterminator="\n"))
    write_json(folder / "benchmark.json", machine)
    text = markdown(rows, machine)
    write_text(folder / "benchmark.md", text)
    save(picture(rows, machine), folder / "benchmark.png")
    return text


def markdown(rows: list[Row], machine: dict) -> str:
    """Write the table, under how many targets are met and on which machine."""
    with_target = [row for row in rows if row.target]
    met, missed = ([row for row in with_target if row.met == word] for word in ("yes", "no"))
    both = machine["versions"] | machine["against"]
    versions = ", ".join(f"{name} {version}" for name, version in both.items())
    lines = [
        f"**Benchmark**: {len(met)} of {len(with_target)} targets met, {len(missed)} missed, "
        f"{len(with_target) - len(met) - len(missed)} not measured.",
        "",
        f"{processor(machine)} ({', '.join(machine['flags'])}); {versions}; {machine['date']}. "
        f"{machine['clips']} clips of {machine['corpus']}. Medians of {machine['repeats']} rounds; "
        "ours and the other take turns in one process. A ratio says how many times better ours is.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|--:|--:|--:|---|---|---|---|",
    ]
    for row in rows:
        cells = [getattr(row, name) for name in COLUMNS]
        lines.append("| " + " | ".join(_cell(value) for value in cells) + " |")
    return "\n".join(lines) + "\n"


def processor(machine: dict) -> str:
    """Name the machine in a few words."""
    return f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB"


def number(value: float) -> str:
    """Three significant digits, or all before the point; nothing for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cell(value: float | str) -> str:
    return value.replace("|", "/") if isinstance(value, str) else number(value)


@styled
def picture(rows: list[Row], machine: dict) -> Figure:
    """Draw how far each measured value lies on the right or wrong side of its target."""
    shown = [row for row in rows if row.met][::-1]
    fig, ax = canvas(height=1.4 + 0.34 * len(shown))
    low, high = SHOWN
    for i, row in enumerate(shown):
        margin = min(max(row.margin, low), high)
        colour = GREEN if row.met == "yes" else ORANGE
        ax.barh(i, margin - 1, left=1, color=colour, height=0.6)
        value = row.ratio if row.target.startswith("ratio") else row.ours
        text = f" {number(value)} ({row.target.replace('>=', '≥').replace('<=', '≤')})"
        ax.text(max(margin, 1), i, text, va="center", fontsize=9.5)
    ax.axvline(1, color="black", lw=1)
    ax.set(xscale="log", xlim=(low, high * 30), ylim=(-0.7, len(shown) - 0.3))
    ax.set_xticks([0.1, 1, 10, 100, 1000], ["0.1", "target", "10", "100", "1000"])
    ax.set_yticks(range(len(shown)), [row.stage for row in shown])
    ax.set_xlabel("times better than the target (left of it: missed)")
    ax.grid(visible=False, axis="y")
    return finish(fig, f"Benchmark: {processor(machine)}", "")
