"""Whether a tokenizer puts a BOS before every text."""

from __future__ import annotations

import copy

import pytest

from nse_plugin.models.gguf.special_tokens import adds_bos, let_add_bos


def test_bos_put_and_left_out(tokenizer):
    one = copy.deepcopy(tokenizer)
    for adds in (True, False, False, True):
        let_add_bos(one, adds)
        assert adds_bos(one) is adds
    assert one("a", "b")["input_ids"][0] == 0
    let_add_bos(one, False)
    one.bos_token = None
    with pytest.raises(ValueError, match=r"set tokenizer\.bos_token"):
        let_add_bos(one, True)


def test_what_else_is_added_stays(tokenizer):
    from tokenizers.processors import TemplateProcessing

    one = copy.deepcopy(tokenizer)
    bos, end = one.bos_token, one.convert_ids_to_tokens(1)
    one.backend_tokenizer.post_processor = TemplateProcessing(
        single=[bos, "$A", end], pair=[bos, "$A", end, "$B", end], special_tokens=[(bos, one.bos_token_id), (end, 1)]
    )
    [letter] = one("a", add_special_tokens=False)["input_ids"]
    for adds in (False, True):
        let_add_bos(one, adds)
        assert one("a")["input_ids"] == [one.bos_token_id] * adds + [letter, 1]
