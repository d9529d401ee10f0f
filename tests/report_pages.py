"""Results of comparisons, and report pages made from them."""

from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd

from nse_plugin.experiments.report.page.html import write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """A page read back: fails on tags that do not match, and keeps tables, text, ids and outside addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.scripts = 0
        self.tables: list[list[list[str]]] = []
        self.best: list[str] = []
        self._marking = False
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.scripts += tag == "script"
        self.ids += [given["id"]] if "id" in given else []
        self.loaded += [given[name] for name in ("src", "href", "xlink:href", "data") if name in given]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self._marking = given.get("class") == "best"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._marking = False

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if self._marking:
            self.best.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, method: str, table: int = 0) -> list[str]:
        """The cells of a method's row."""
        (found,) = (row[1:] for row in self.tables[table] if row and row[0] == method)
        return found


def report_of(folder) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def changed(folder, name, change) -> None:
    """Rewrite one of the tables."""
    frame = pd.read_csv(folder / f"{name}.csv")
    change(frame).to_csv(folder / f"{name}.csv", index=False)


def facts_with(**methods: list[float]) -> pd.DataFrame:
    """As facts.csv, with the Efficacy of each method's facts."""
    frames = [
        pd.DataFrame({"method": name, "edits": 10, "case_id": range(len(own)), "efficacy": own})
        for name, own in methods.items()
    ]
    return pd.concat(frames)


def summary_of(**methods: dict[str, float]) -> pd.DataFrame:
    edits = {name: 0 if name == "before" else 10 for name in methods}
    rows = [(name, edits[name], metric, value) for name, own in methods.items() for metric, value in own.items()]
    return pd.DataFrame(rows, columns=["method", "edits", "metric", "value"])
