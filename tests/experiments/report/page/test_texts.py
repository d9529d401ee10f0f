"""Texts written by the final model, with the answers marked in them."""

from __future__ import annotations

import re

from fabricated import results_folder
from report_pages import changed, report_of

from nse_plugin.experiments.report.page.html import write_report
from nse_plugin.experiments.report.page.texts import LENGTH


def test_five_texts_are_shown_under_every_method(finished) -> None:
    _, page = finished
    assert page.text.count("French → English") == 5
    assert page.text.count("grew up in a house where the language was …") == 5


def test_texts_come_from_the_final_model_cut_at_a_word_with_answers_marked(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"))
    long = " ".join(["Englishman English"] * 60)
    changed(folder, "texts", lambda f: f.assign(text=f["prompt"] + f" after {long}"))
    html = write_report(folder).read_text(encoding="utf-8")
    assert "Englishman" in html
    assert '<mark class="new">English</mark>' in html
    assert '<mark class="new">English</mark>man' not in html
    cut = re.sub("<[^>]+>", "", html[html.index(">after ") + 1 : html.index("…</dd>")])
    assert LENGTH - 20 < len(cut) <= LENGTH + 1
    assert cut.split()[-1] in ("English", "Englishman")


def test_without_texts_that_section_is_left_out(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE",))
    changed(folder, "texts", lambda f: f[:0])
    assert "What the models write" not in report_of(folder).text
