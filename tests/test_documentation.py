"""README and docs: code blocks run, command lines parse, and links have a target.

Blocks in `sh` and `python` are run page by page, in order, with one folder and one namespace per page. A block that
cannot run here has a comment in the line before it, `<!-- not run: REASON -->`. A block with `title="NAME"` is a file
in the page's folder. Blocks are run as written, except that the presets are cheaper: two steps for a value, and second
moments of a short text.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from markdown_it import MarkdownIt

from nse_plugin.cli.main import _parser, main
from nse_plugin.cli.options import NOT_ALL
from nse_plugin.experiments.plan import Plan
from nse_plugin.experiments.plan.cell import CellPlan
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
RUN = ("python", "sh")
SHOWN = ("text", "csv", "json", "jsonl", "yaml")  # output, and files
MARK = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block. line: where its text begins, from 1. reason: why it is not run; None: it is run."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    before = ""
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            language, _, rest = token.info.partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            reason = MARK.fullmatch(before)
            yield Block(
                page, token.map[0] + 2, language, title and title[1], token.content, reason and reason[1].strip()
            )
        before = token.content.strip() if token.type == "html_block" else ""


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    lines = ""
    for line in text.splitlines():
        lines += line
        if lines.endswith("\\"):
            lines = lines[:-1]
            continue
        try:
            words = shlex.split(lines, comments=True)
        except ValueError:  # a quotation goes on
            lines += "\n"
            continue
        lines = ""
        if words:
            yield words
    assert not lines, f"no end: {lines}"


ALL = [block for page in PAGES for block in blocks(page)]


def with_names(name: str, values: list) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, values, ids=[str(value).removeprefix(f"{ROOT}/") for value in values])


# -- what runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(smollm2_cache, tmp_path_factory) -> Path:
    """A cache with the embedded model, for all pages."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(smollm2_cache / "models")
    return home


@pytest.fixture
def page_folder(home, tmp_path, monkeypatch, forked_programs) -> Path:
    """Where a page's blocks run: like a clone, but for what they write. Presets are cheaper."""
    for name in ("docs", "examples", "hparams"):
        shutil.copytree(ROOT / name, tmp_path / name)
    corpus = home / "corpus.txt"
    if not corpus.exists():
        corpus.write_text("\n\n".join(page.read_text(encoding="utf-8") for page in DOCS), encoding="utf-8")
    check = NSEHyperParams.__post_init__

    def with_less(hparams: NSEHyperParams) -> None:
        if hparams.mom2_dataset == "self":
            hparams.mom2_dataset, hparams.mom2_n_samples = str(corpus), 60
        hparams.v_num_grad_steps = min(hparams.v_num_grad_steps, 2)
        check(hparams)

    monkeypatch.setattr(NSEHyperParams, "__post_init__", with_less)
    monkeypatch.setattr(sys, "argv", ["nse"])  # hydra's applications write it
    monkeypatch.setenv("NSE_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("PATH", f"{forked_programs}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@with_names("page", [page for page in PAGES if any(b.language in RUN and b.reason is None for b in blocks(page))])
def test_the_blocks_of_a_page_run(page, page_folder):
    namespace: dict = {"__name__": "__main__"}
    for block in blocks(page):
        if block.title is not None:
            (page_folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.reason is None and block.language == "python":
            code = "\n" * (block.line - 1) + block.text  # errors name the page's line
            exec(compile(code, str(page), "exec", dont_inherit=True), namespace)
        elif block.reason is None and block.language == "sh":
            run_shell(block)


def run_shell(block: Block) -> None:
    """`nse` in this process, which has imported everything; anything else by bash."""
    every = list(commands(block.text))
    if any(words[0] != "nse" for words in every):
        subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], check=True, timeout=300)
        return
    for words in every:
        try:
            code = main(words[1:])
        except SystemExit as end:
            code = end.code
        not_all = code == NOT_ALL and words[1] in ("edit", "check")  # so few steps are not enough for every fact
        assert code in (0, None) or not_all, f"{block}: {shlex.join(words)} ended with {code}"


def test_every_block_is_run_or_says_why_not():
    for block in ALL:
        assert block.language in (*RUN, *SHOWN), f"{block}: a block in {block.language!r}"
        if block.reason is not None:
            assert block.language in RUN, f"{block}: {block.language} is never run"
            assert len(block.reason.split()) >= 2, f"{block}: {block.reason!r} is no reason"
    marks = sum(len(re.findall("^ *<!-- not run", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES)
    assert marks == sum(block.reason is not None for block in ALL)  # each stands right before its block
    assert sum(block.language in RUN and block.reason is None for block in ALL) >= 12


# -- what parses ---------------------------------------------------------------------------------------------------


@with_names("block", [block for block in ALL if block.language == "sh" and "nse " in block.text])
def test_every_command_line_of_nse_parses(block):
    for words in commands(block.text):
        if Path(words[0]).name == "nse":
            check_parses(words[1], words[2:])


def check_parses(command: str, rest: list[str]) -> None:
    if command == "compare" and rest != ["--help"]:
        counted = [] if any(word.startswith("facts=") for word in rest) else ["facts=2000"]  # facts=all reads the file
        Plan.from_config(composed("compare", [*rest, *counted]))
    elif command == "sweep" and rest != ["--help"]:
        given = OverridesParser.create().parse_overrides([word for word in rest if not word.startswith("hydra/")])
        CellPlan.from_config(composed("sweep", [first_choice(override) for override in given]))
    elif rest != ["--help"]:
        _parser().parse_args([command, *rest])


def first_choice(override) -> str:
    if override.is_discrete_sweep():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    if override.is_interval_sweep():
        return f"{override.get_key_element()}={override.value().end}"
    return override.input_line


# -- what leads somewhere ------------------------------------------------------------------------------------------


def links(page: Path) -> Iterator[str]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type in ("link_open", "image"):
                yield str(child.attrs.get("href") or child.attrs.get("src"))


def anchors(page: Path) -> set[str]:
    """As GitHub and MkDocs make them of headings."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    titles = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@with_names("page", [*PAGES, ROOT / "benchmarks" / "README.md"])
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"
        inside = page.parent == ROOT / "docs"
        assert not inside or target.parent == ROOT / "docs", f"{page}: {link} is not on the website"


def test_every_page_is_on_the_website_and_in_the_readme():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    entries = [entry for section in nav for entry in section.values()]
    pages = [page for entry in entries for page in ([entry] if isinstance(entry, str) else entry)]
    assert sorted(pages) == [page.name for page in DOCS]
    assert {f"docs/{name}" for name in pages if name != "index.md"} <= {
        link.partition("#")[0] for link in links(ROOT / "README.md")
    }


# -- what is complete ----------------------------------------------------------------------------------------------


def test_the_table_of_fields_has_every_field_of_a_fact():
    text = (ROOT / "docs" / "facts.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(Fact):
        assert f"| `{field.name}` |" in text
