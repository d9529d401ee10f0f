"""Format docstrings for the website: lines "name: meaning" become list items, "Raises ..." starts a new paragraph."""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"(\w+(?:, \w+)*): .")
PARAGRAPH = ("Raises", "Returns")


class NamedLines(griffe.Extension):
    """Griffe extension that formats all docstrings with `as_lists`; mkdocs.yml loads it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_lists(obj.docstring.value, names_in(obj))


def names_in(obj: griffe.Object) -> set[str]:
    """Return the parameters of a function, or the attributes and the parameters of __init__ of a class."""
    if obj.is_function:
        return {parameter.name for parameter in obj.parameters}
    if obj.is_class:
        made = obj.members.get("__init__")
        return set(obj.members) | ({parameter.name for parameter in made.parameters} if made is not None else set())
    return set()


def as_lists(text: str, names: set[str]) -> str:
    """Turn a docstring into Markdown.

    A line "name: meaning" becomes a list item if the name is in `names` or the line is indented; several names may be
    separated by commas. The indentation decides how lists are nested.
    """
    known = "|".join(map(re.escape, sorted(names)))
    if known:  # an item that begins in the middle of a line
        text = re.sub(rf"(?<=[.;]) +(?=(?:{known}): )", "\n", text)
    lines: list[str] = []
    indents: list[int] = []  # indentations of the list items that are still open
    for line in text.splitlines():
        content = line.strip()
        indent = len(line) - len(line.lstrip())
        item = ITEM.match(content)
        if item and (indent or names.issuperset(item[1].split(", "))):
            if not indents:
                lines.append("")
            indents = [other for other in indents if other < indent] + [indent]
            content = f"- `{item[1]}`{content.removeprefix(item[1])}"
        elif not content or content.startswith(PARAGRAPH) or (indents and indent < indents[-1]):
            indents = []
            lines.append("")
        lines.append("    " * (len(indents) - 1) + ("  " if indents and not item else "") + content)
    return "\n".join(lines)
