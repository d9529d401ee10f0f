"""A span of layers is run only once for all facts."""

from __future__ import annotations

from tiny import TEMPLATES

from nse_plugin.replay.first_use import batched_arguments, check_once
from nse_plugin.replay.span import SpanReplay


def padded(lengths):
    return len(lengths) * max(lengths)


def test_templates_are_run_once_for_all_facts_and_recorded_layers_not_at_all(seen, rows):
    layout, tokens = seen
    check_once(layout, [1, 2], rows)
    batched_arguments(layout, rows)
    tokens[:] = [0] * len(tokens)
    replay = SpanReplay(layout, [1, 2], rows, 4096)
    contexts = {row.ids[: row.context] for row in rows}
    assert len(contexts) <= 2 * len(TEMPLATES) - 1 < len(rows)  # a space may stay with the template or not
    shared = padded([len(context) for context in contexts])
    own = padded([row.lookup + 1 - row.context for row in rows])
    assert tokens == [shared + own, 0, 0, 0]
    replay.run()
    # padding is skipped, and the last layer's MLP runs at the lookups alone
    unpadded = sum(map(len, contexts)) + (() in contexts) + sum(row.lookup + 1 - row.context for row in rows)
    lookups = len(contexts) + len(rows)
    assert tokens == [shared + own, unpadded, lookups, 0]
    replay.part([0, 4]).run(2)  # layer 1 is as it was
    assert tokens[1:] == [unpadded, 2 * len(contexts) + len(rows) + 2, 0]
