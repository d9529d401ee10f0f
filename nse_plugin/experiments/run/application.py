"""`nse compare` as a hydra application, which checks its settings before anything heavy is imported."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from omegaconf import DictConfig

from nse_plugin.experiments.plan import Plan
from nse_plugin.experiments.plan.configuration import asks_for_help, composed, launched, plain


def compare(arguments: Sequence[str]) -> None:
    """Run the comparison described by `arguments`, as on the command line.

    Raises what `comparison.run` raises, and RuntimeError if no method finished: the report gives the reasons.
    """
    if not asks_for_help(arguments):
        Plan.from_config(composed("compare", arguments))
    failure: list[Exception] = []

    def job(config: DictConfig) -> None:
        from nse_plugin.experiments.report.collect import record_of
        from nse_plugin.experiments.run.comparison import run  # imports torch

        plan = Plan.from_config(plain(config))
        try:
            run(plan, command=shlex.join(["nse", "compare", *arguments]))
            if not any(record_of(plan, name).is_done for name in plan.methods):
                raise RuntimeError(f"no method came to its end: {plan.out / 'report.html'} has the reasons.")
        except Exception as error:  # hydra would print its own message: raise it outside instead
            failure.append(error)

    launched("compare", arguments, job)
    if failure:
        raise failure[0]
