"""The package itself: the effects of importing it, and its public names."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import nse_plugin


def run_python(code, tmp_path):
    """Run code in a new process, in an empty folder with an empty home; returns what it printed."""
    paths = [str(Path(nse_plugin.__file__).parents[1]), str(Path(__file__).parent)]
    environment = {**os.environ, "HOME": str(tmp_path), "NSE_HOME": str(tmp_path / "nse"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_importing_is_light_and_leaves_no_trace(tmp_path):
    """The package itself needs nothing; a session nothing heavy beyond torch and transformers."""
    run_python(
        """
        import sys
        import nse_plugin
        assert set(nse_plugin.__all__) <= set(dir(nse_plugin))
        heavy = {"torch", "transformers", "easyeditor", "pandas", "numpy", "rich", "matplotlib", "datasets", "hydra"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)

        import logging, os, random
        import numpy, torch, transformers.cache_utils, transformers.pytorch_utils
        def process():
            random_states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
            return random_states, list(logging.getLogger().handlers), dict(os.environ)
        modules, before = set(sys.modules), process()
        from nse_plugin import EditSession, Fact, NSEHyperParams, RoundReport
        assert not heavy & (set(sys.modules) - modules), heavy & (set(sys.modules) - modules)
        assert process() == before
        """,
        tmp_path,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_session_needs_no_easyedit(tmp_path):
    printed = run_python(
        """
        import sys
        class Blocked:
            def find_spec(self, name, *_):
                if name.split(".")[0] in ("easyeditor", "hydra", "omegaconf"):
                    raise ImportError(f"{name} is blocked")
        sys.meta_path.insert(0, Blocked())
        from nse_plugin import EditSession, NSEHyperParams
        from tiny import tiny_facts, tiny_model, tiny_tokenizer
        hparams = NSEHyperParams(layers=[1, 2], alpha=5, v_num_grad_steps=3, mom2_n_samples=2)
        report = EditSession(tiny_model("llama"), tiny_tokenizer(), hparams).edit(tiny_facts())
        print(len(report.frame), "easyeditor" in sys.modules)
        """,
        tmp_path,
    )
    assert printed.split() == ["4", "False"]


def test_an_unknown_public_name():
    with pytest.raises(AttributeError, match="no attribute 'Edit'"):
        nse_plugin.Edit  # noqa: B018
