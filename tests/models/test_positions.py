"""The largest number of tokens that a model can read at once."""

from __future__ import annotations

from transformers import AutoConfig

from nse_plugin.models.positions import max_positions


def test_where_configurations_say_how_many_positions_there_are():
    for kind, names in {"llama": "max_position_embeddings", "gpt2": "n_positions", "mpt": "max_seq_len"}.items():
        assert max_positions(AutoConfig.for_model(kind, **{names: 77})) == 77
    assert max_positions(AutoConfig.for_model("bloom")) is None
    assert max_positions(AutoConfig.for_model("llava", text_config={"max_position_embeddings": 77})) == 77
