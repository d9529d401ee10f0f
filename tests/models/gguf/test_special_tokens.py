"""Whether a tokenizer puts a BOS before every text."""

from __future__ import annotations

import pytest

from nse_plugin.models.gguf.special_tokens import adds_bos, let_add_bos


def test_bos_put_and_left_out(tokenizer):
    import copy

    one = copy.deepcopy(tokenizer)
    for adds in (True, False, False, True):
        let_add_bos(one, adds)
        assert adds_bos(one) is adds
    assert one("a", "b")["input_ids"][0] == 0
    let_add_bos(one, False)
    one.bos_token = None
    with pytest.raises(ValueError, match=r"set tokenizer\.bos_token"):
        let_add_bos(one, True)
