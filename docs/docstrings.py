"""Docstrings as the website shows them: lines of "name: what it is" become lists, "Raises ..." begins a paragraph."""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"(\w+(?:, \w+)*): .")
PARAGRAPH = ("Raises", "Returns")


class NamedLines(griffe.Extension):
    """mkdocs.yml names it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_lists(obj.docstring.value, names_in(obj))


def names_in(obj: griffe.Object) -> set[str]:
    """Parameters of a function; attributes, and parameters of __init__, of a class."""
    if obj.is_function:
        return {parameter.name for parameter in obj.parameters}
    if obj.is_class:
        made = obj.members.get("__init__")
        return set(obj.members) | ({parameter.name for parameter in made.parameters} if made is not None else set())
    return set()


def as_lists(text: str, names: set[str]) -> str:
    """Markdown. An item names some of `names`, or is indented; lists within lists are told by their indentation."""
    known = "|".join(map(re.escape, sorted(names)))
    if known:  # one that begins within a line
        text = re.sub(rf"(?<=[.;]) +(?=(?:{known}): )", "\n", text)
    lines: list[str] = []
    indents: list[int] = []  # of the items that are open
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
