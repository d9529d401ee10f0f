"""Draw how a round works: `python docs/round.py docs/round.png`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, FAINT, EDITED, VALUE, LATER = "#222222", "#d9d9d9", "#f6d7a7", "#c0392b", "#2c6fab"
TOKENS = ("The", "Eiffel", "Tower", "is", "located", "in")
LAYERS = 9
EDITED_LAYERS = (3, 4, 5)
SUBJECT_END = 2  # the token whose hidden state is optimised
STEPS = (
    "value z = h + delta\non the original weights",
    "keys k of the edited layers\nat the subject's last token",
    "neurons that carry\nthe share p of the activity",
    "update of each edited layer\nwith its share of z - h",
    "residual below alpha?",
    "keys join the\nprotected keys",
)


def main(path: Path) -> None:
    plt.rcParams.update({"font.size": 11, "text.color": INK, "font.family": "sans-serif"})
    figure, (model, steps) = plt.subplots(1, 2, figsize=(12, 6.4), width_ratios=(1.25, 1), facecolor="white")
    draw_model(model)
    draw_steps(steps)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def draw_model(axes: Axes) -> None:
    """A dot for each hidden state: tokens from left to right, layers from the bottom up."""
    axes.set_title("In the model (edited layers shaded)", loc="left", fontweight="bold")
    for layer in EDITED_LAYERS:
        axes.add_patch(FancyBboxPatch((-0.4, layer - 0.28), 5.8, 0.56, boxstyle="round,pad=0.08", fc=EDITED, ec="none"))
    last = EDITED_LAYERS[-1]
    for layer in range(LAYERS):
        for token in range(len(TOKENS)):
            changed = layer > last and token >= SUBJECT_END
            colour = LATER if changed else FAINT
            if token == SUBJECT_END and layer in EDITED_LAYERS:
                colour = VALUE if layer == last else INK
            axes.plot(token, layer, "o", color=colour, markersize=11, markeredgecolor="#999999", markeredgewidth=0.5)
    for token, word in enumerate(TOKENS):
        bold = "bold" if token == SUBJECT_END else "normal"
        axes.text(token, -0.85, word, ha="center", fontweight=bold)
    for token in range(SUBJECT_END, len(TOKENS)):
        axes.annotate(
            "", (token, last + 0.8), (SUBJECT_END, last + 0.2), arrowprops={"arrowstyle": "->", "color": LATER}
        )
    axes.annotate("", (5, 8.8), (5, 8.2), arrowprops={"arrowstyle": "->", "color": INK})
    axes.text(5, 9.0, "Rome", ha="center", fontweight="bold", color=VALUE)
    notes = (
        (7, LATER, "changes with delta: all that\na gradient step has to run"),
        (5, VALUE, "z: delta is added to the\noutput of the last edited layer"),
        (3.5, INK, "k: read in each edited layer,\nas the input of W_out"),
        (1, "#777777", "never changes: run once"),
    )
    for height, colour, note in notes:
        axes.text(5.75, height, note, color=colour, va="center")
    axes.set_xlim(-0.7, 9.2)
    axes.set_ylim(-1.3, 9.5)
    axes.axis("off")


def draw_steps(axes: Axes) -> None:
    axes.set_title("Step by step", loc="left", fontweight="bold")
    height, gap = 1.15, 0.62
    tops = [-(height + gap) * place for place in range(len(STEPS))]
    for place, (text, top) in enumerate(zip(STEPS, tops, strict=True)):
        colour = "#fbeae8" if place == 0 else "#eaf1f8" if place == len(STEPS) - 1 else "#fdf3e0"
        axes.add_patch(FancyBboxPatch((0, top - height), 4, height, boxstyle="round,pad=0.1", fc=colour, ec="#999999"))
        axes.text(2, top - height / 2, text, ha="center", va="center")
        if place:
            axes.annotate("", (2, top + 0.12), (2, tops[place - 1] - height - 0.12),
                          arrowprops={"arrowstyle": "->", "color": INK})  # fmt: skip
    axes.text(2.15, (tops[5] + tops[4] - height) / 2, "yes", va="center")
    asked, keys = tops[4] - height / 2, tops[1] - height / 2
    back = FancyArrowPatch((4.15, asked), (4.15, keys), connectionstyle="bar,fraction=0.17", arrowstyle="->",
                           mutation_scale=12, color=INK)  # fmt: skip
    axes.add_patch(back)
    axes.text(5.4, (asked + keys) / 2, "no: these facts\nagain, at most\nmax_iterations\npasses", va="center")
    axes.set_xlim(-0.3, 7.6)
    axes.set_ylim(tops[-1] - height - 0.3, 0.4)
    axes.axis("off")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
