"""A round's cost after many rounds."""

from __future__ import annotations

from benchmarks import flat


def test_growth_is_of_early_and_late_rounds(roomy, monkeypatch) -> None:
    clock = iter(range(1, 100))
    monkeypatch.setattr(flat, "cpu_seconds", lambda work, *arguments: (work(*arguments), next(clock))[1])
    before = roomy.layout.output_matrix(1).weight.clone()
    growth = flat.measure(roomy, 24)
    assert growth.rounds == 24
    assert (growth.early_seconds, growth.late_seconds) == (6.5, 19.5)  # rounds 2 to 11, rounds 15 to 24
    assert growth.late_mb > 0
    assert roomy.layout.output_matrix(1).weight.equal(before)
