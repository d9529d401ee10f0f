"""`nse view`: the content of the page, parsed and in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from nse_plugin.cli import main
from nse_plugin.cli.options import NOT_ALL
from nse_plugin.models.loading import load
from nse_plugin.session.folder.opening import read_columns, read_rounds
from nse_plugin.session.page.html import LayerChange

EVIL = "<script>top.evil = 1</script>\"'&<b>"
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def third_round(made, tmp_path_factory):
    """A copy of what was made, and a round in which Rome replaces Lyon."""
    folder = tmp_path_factory.mktemp("third")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    rome = ["--fact", "The capital of {} is", "France", "Rome", "--author", EVIL, "--reason", EVIL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NSE_HOME", str(folder / "nse-home"))
        patch.chdir(folder)
        assert main(["edit", "--model", "town-model", "--session", "session", *rome]) in (0, NOT_ALL)
    return folder


@pytest.fixture
def view(edited, third_round, tmp_path, capsys, saved):
    """view(model=False, ...) -> the page of a session with three rounds, in which Rome replaces Lyon."""
    shutil.copytree(third_round / "session", tmp_path / "session", dirs_exist_ok=True)

    def call(*rest: str, model: bool = False) -> str:
        capsys.readouterr()
        assert main(["view", "session", *(["--model", saved] if model else []), *rest]) == 0
        page: str = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
        return page

    return call


def words(html: str) -> str:
    """What a reader sees, without style and script."""
    body = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL)
    inline = re.sub(r"</?(a|b|bdi|code|span|time)\b[^>]*>", "", body)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", inline)).split())


def listed(html: str) -> dict[str, str]:
    """The words of each fact, by the id of its place."""
    facts = html[html.index('<ol class="facts"') : html.index('<section id="replaced"')]
    return {found[1]: words(found[2]) for found in re.finditer(r'<li id="([^"]*)"[^>]*>(.*?)</li>', facts, re.DOTALL)}


def test_rounds_facts_and_what_replaced_what(view):
    page = view()
    text, facts = words(page), listed(page)
    assert list(facts) == ["fact-3-1", "fact-2-2", "fact-2-1", "fact-1-1"]
    assert facts["fact-1-1"].startswith("The capital of France is → Lyon replaced round 1 · ann · first · case lyon ·")
    assert facts["fact-1-1"].endswith("Replaced in round 3 by Rome.")
    assert "Marie Curie was born in → Rome" in facts["fact-2-1"]
    for one in read_rounds("session"):
        said = one.report.frame["is_said"].sum()
        assert f"{one.time[:10]} {one.time[11:16]} UTC · {one.id[:8]}" in text
        counts = f"{len(one.facts)} fact{'s' * (len(one.facts) > 1)}, {one.statuses.count('done')} done, {said} said"
        assert counts in text
        rows = zip(one.facts, one.statuses, one.report.frame["target_after"], strict=True)
        for place, (fact, status, after) in enumerate(rows, 1):
            state = "replaced" if fact.target_new == "Lyon" else status.replace("_", " ")
            row = facts[f"fact-{one.number}-{place}"]
            assert row.startswith(f"{fact.text} → {fact.target_new} {state} round {one.number} ·")
            assert f"{status.replace('_', ' ')} · P unedited" in row
            assert f"after its round {after:.3f}" in row
    assert "Was Is By The capital of France is Lyon (round 1) Rome (round 3) <script>" in text


def test_size_of_the_changes(view, saved):
    page = view()
    rows = re.findall(r'<tr><th scope="row">(\d)</th>(.*?)</tr>', page)
    assert [int(number) for number, _ in rows] == [3, 2, 1]
    bars = [re.findall(r"<title>round (\d): (.*?)</title>", svg) for svg in re.findall("<svg.*?</svg>", page, re.S)]
    matrices = [layer.mlp.down_proj.weight.detach() for layer in load(saved)[0].model.layers]
    assert [len(one) for one in bars] == [3, 3]
    for number, row in rows:
        changed = read_columns("session", int(number), int(number))
        norms = [(one.new - one.old).norm().item() for _, one in sorted(changed.items())]
        shares = [
            f"({100 * norm / matrices[layer].norm():.2g}%)" for layer, norm in zip(sorted(changed), norms, strict=True)
        ]
        columns = [f"{len(one.neurons)} columns" for _, one in sorted(changed.items())]
        told = zip(norms, shares, columns, strict=True)
        assert words(row) == " ".join(f"{norm:.4g} {share} in {own}" for norm, share, own in told)
        told = zip(norms, shares, strict=True)
        assert [one[int(number) - 1] for one in bars] == [(number, f"{norm:.3g} {share}") for norm, share in told]


def test_size_of_the_changes_of_a_session_that_an_earlier_version_began(tmp_path):
    """It did not note the matrices' norms."""
    assert LayerChange(4, None, [0.5], [3]).share(0.5) == ""
    assert LayerChange(4, 2.0, [0.5], [3]).share(0.5) == " (25%)"


def test_what_the_model_says_now(view, edited):
    page = view(model=True)
    facts = listed(page)
    checked = json.loads(edited("check", "--json")[1])
    prompts = [row["prompt"] for row in checked]
    answers = {row["prompt"]: row for row in json.loads(edited("ask", *prompts, "--tokens", 20, "--json")[1])}
    assert len(checked) == 4
    for row in checked:
        (fact,) = [one for one in facts.values() if one.startswith(f"{row['prompt']} → {row['target']} ")]
        state = "replaced" if row["replaced"] else "holds" if row["holds"] else "does not hold"
        assert f"→ {row['target']} {state} round {row['round']}" in fact
        assert f"now {row['probability']:.3f}" in fact
        answer = answers[row["prompt"]]
        assert fact.endswith(" ".join(f"unedited {answer['before']} edited {answer['after']}".split()))


def test_facts_that_are_not_written_or_written_again(view, edited, saved):
    again = ("--fact", "{} stands in", "Mount Fuji", "Germany")
    edited("edit", "--fact", "The capital of {} is", "France", "Lyon", *again, "--on-conflict", "keep")
    facts = listed(view(model=True))
    assert facts["fact-4-1"].startswith("The capital of France is → Lyon not written")
    assert facts["fact-4-1"].endswith("kept")
    assert facts["fact-1-1"].startswith("The capital of France is → Lyon replaced")
    assert "→ Germany written again" in facts["fact-2-2"]
    assert facts["fact-2-2"].endswith("Written again in round 4.")
    assert "unedited" in facts["fact-4-2"]


def test_everything_is_escaped(view, edited):
    subject, target = "<script>\"'&", "<b>'\""  # short: the tiny model has 64 positions
    assert edited("edit", "--fact", "{} is", subject, target)[0] in (0, 3)
    page = view(model=True)
    assert page.count("<script") == page.count("</script") == 1
    assert f"{subject} is → {target}" in words(page)
    assert listed(page)["fact-3-1"].count(EVIL) == 2  # its author and its reason


def test_the_folder_is_as_it_was(view, capsys):
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path("session").rglob("*") if path.is_file()}

    before = content()
    view()
    view("--out", "pages/one.html")
    one, other = (Path(name).read_text().split("<footer") for name in ("session.html", "pages/one.html"))
    assert one[0] == other[0]
    assert content() == before
    for out in ("session/page.html", "session"):
        assert main(["view", "session", "--out", out]) == 1
        assert f"--out {out} is within the session's folder" in capsys.readouterr().err
    assert content() == before
    assert main(["view", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not Path("nowhere.html").exists()


def test_no_round_stands(view, edited):
    edited("rollback", "--rounds", 3, model=False)
    for model in (False, True):
        assert "Facts none" in words(view(model=model))


def test_without_jinja2(edited, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["view", "session"]) == 1
    assert "needs jinja2, which comes with torch: pip install jinja2." in capsys.readouterr().err
    assert not Path("session.html").exists()


# -- in a browser ------------------------------------------------------------------------------------------------

SHOWN = "[...document.querySelectorAll('.facts > li')].filter(one => one.checkVisibility()).map(one => one.id)"
CONTRASTS = """(() => {
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
const behind = one => { while (one && numbers(getComputedStyle(one).backgroundColor)[3] === 0) one = one.parentElement;
  return numbers(getComputedStyle(one ?? document.documentElement).backgroundColor); };
const written = one => [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim());
return [...document.querySelectorAll("body *")].filter(one => one.checkVisibility() && written(one)).map(one => {
  const [high, low] = [light(numbers(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
  return [(high + 0.05) / (low + 0.05), one.className || one.tagName]; });
})()"""


@pytest.fixture
def browser(view, tmp_path) -> Iterator[Browser]:
    view(model=True)
    with Browser(tmp_path / "browser") as opened:
        opened.load(Path("session.html").resolve())
        yield opened


def focus(browser: Browser, selector: str) -> None:
    """Press the tabulator until an element has the focus."""
    for _ in range(30):
        browser.press("Tab", 9)
        if browser.value(f"document.activeElement.matches('{selector}')"):
            return
    raise AssertionError(f"the tabulator does not lead to {selector}")


@in_browser
def test_search_by_keyboard(browser):
    every = ["fact-3-1", "fact-2-2", "fact-2-1", "fact-1-1"]
    assert browser.value(SHOWN) == every
    focus(browser, "#search input")
    browser.type("france lyon")
    assert browser.value(SHOWN) == ["fact-1-1"]
    assert browser.value("document.querySelector('output').value") == "1 of 4 facts"
    browser.press("Escape", 27)
    assert browser.value(SHOWN) == every
    browser.press("Tab", 9)
    browser.type("r")  # the state that begins with it
    assert browser.value(SHOWN) == ["fact-1-1"]
    focus(browser, '[href="#fact-3-1"]')
    browser.press("Enter", 13, "\r")
    browser.settle()
    assert browser.value("location.hash") == "#fact-3-1"
    assert browser.value(SHOWN) == every  # what a link leads to is not left hidden


@in_browser
def test_rounds_open_by_keyboard(browser):
    focus(browser, "summary")
    browser.press("Enter", 13, "\r")
    assert browser.value("document.querySelector('#round-3 details').open")
    assert browser.value("document.querySelector('#round-3 li').checkVisibility()")


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_readable(browser, scheme):
    browser.prefer(scheme)
    browser.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    paper = browser.value("getComputedStyle(document.documentElement).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")
    contrasts = browser.value(CONTRASTS)
    assert len(contrasts) > 60
    assert min(contrasts)[0] >= 4.5, min(contrasts)  # WCAG 2.2, AA


@in_browser
def test_nothing_else_is_loaded_and_no_fact_runs(browser):
    asked = [one["request"]["url"] for one in browser.named("Network.requestWillBeSent")]
    assert asked == [Path("session.html").resolve().as_uri()]
    assert browser.value("document.title") == "session: 3 rounds, 4 facts"
    assert EVIL in browser.value("document.body.innerText")
    assert browser.value("typeof top.evil") == "undefined"
    assert browser.named("Log.entryAdded", "Runtime.exceptionThrown") == []
    browser.value("document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))")
    assert browser.value("document.title") != "1"  # the policy of the page lets its own script run, and no other


@in_browser
@pytest.mark.parametrize("width", [1000, 360])
def test_nothing_is_wider_than_the_window(browser, width):
    browser.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.value("document.documentElement.scrollWidth") <= width


@in_browser
def test_without_scripts_all_but_the_search_is_there(view, tmp_path):
    view()
    with Browser(tmp_path / "browser", scripts=False) as browser:
        browser.load(Path("session.html").resolve())
        assert len(browser.value(SHOWN)) == 4
        assert not browser.value("document.getElementById('search').checkVisibility()")
