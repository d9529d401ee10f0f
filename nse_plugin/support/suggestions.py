"""Parts of messages to users: suggestions for unknown names, counts of things, and errors."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


def did_you_mean(given: object, known: Collection[str], otherwise: str | None = None, cutoff: float = 0.6) -> str:
    """Return the end of an error message: the nearest known name; if there is none, `otherwise` or, if that is None,
    all known names."""
    near = get_close_matches(str(given), known, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are {', '.join(sorted(known)) or 'none'}." if otherwise is None else otherwise


def number_of(count: int, thing: str) -> str:
    """Format a count with its noun: "1 cell", "2 cells", "1,000 cells", ..."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def in_a_line(error: BaseException) -> str:
    """Format an error in one line: this package's own messages as they are, others after the name of their class."""
    own = type(error).__module__.partition(".")[0] == "nse_plugin"
    return " ".join(f"{'' if own else type(error).__name__ + ': '}{error}".split())
