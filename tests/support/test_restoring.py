"""Changes are undone, however the block ends."""

from __future__ import annotations

import pytest

from nse_plugin.support.restoring import restoring


def test_at_the_end_of_the_block():
    done = []
    with restoring(lambda: done.append(1)):
        assert not done
    assert done == [1]


def test_after_an_error_which_goes_on():
    done = []
    with pytest.raises(KeyError, match="mine"), restoring(lambda: done.append(1)):
        raise KeyError("mine")
    assert done


def test_once_more_where_it_was_interrupted():
    done = []

    def restore():
        done.append(1)
        if len(done) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), restoring(restore):
        pass
    assert done == [1, 1]
