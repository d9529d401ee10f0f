"""The available algorithms: EasyEdit's, NSE, and the baselines that EasyEdit lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nse_plugin.baselines.grace import apply_grace_to_model
from nse_plugin.baselines.registry import available_algorithms, is_available, register_missing
from nse_plugin.baselines.runner import EasyEditRunner, MethodError


def test_easyedits_own_grace_stays():
    own = object()
    algorithms = {"GRACE": own}
    register_missing(algorithms)
    assert algorithms["GRACE"] is own
    missing = {}
    register_missing(missing)
    assert missing["GRACE"] is apply_grace_to_model


@pytest.mark.parametrize("family", ["llama"])
def test_a_method_that_easyedit_has_not(new_model: Callable[[], Any], tiny_tokenizer: Any) -> None:
    with pytest.raises(MethodError, match="did you mean 'MEMIT'"):
        EasyEditRunner(new_model(), tiny_tokenizer, "MEMITT", None)
    assert is_available("NSE")
    assert not is_available("MEMITT")
    assert {"NSE", "FT", "ROME", "MEMIT", "GRACE", "MEND"} <= set(available_algorithms())
