"""EasyEdit's MEND on any causal language model: train its editor network, and use it one fact at a time.

MEND (Mitchell et al. 2022, arXiv 2110.11309) learns a small network that turns the gradient of one fact into an edit of
a few matrices. Training minimises c_edit * L_edit + c_loc * L_loc over facts: L_edit is the edited model's loss on the
target, L_loc its KL divergence from the unedited model on text that must not change. The network, losses and training
loop are EasyEdit's (`EditTrainer`, `MEND`, `MendRewriteExecutor`); this package provides what they need:

- a model that is already loaded, with any name and on any device, and that is unchanged afterwards except for the edit;
- facts instead of files of one dataset, tokenised as in the evaluation (EasyEdit's CounterFact training takes the
  target without the space before it, its executor with the space, and both with a BOS if the tokenizer adds one);
- an archive of tensors and plain values, which is loaded without unpickling anything.

It also fixes three faults. EasyEdit's executor keeps editing the first model it was given. On the PyPI wheel, `higher`,
which makes the edited model differentiable, cannot slice a ModuleList, as the Llama family does; and the wheel's
executor changes the network's statistics with every edit.
"""

from nse_plugin.baselines.mend.apply import apply_mend_to_model
from nse_plugin.baselines.mend.archive import ArchiveError, archive_path
from nse_plugin.baselines.mend.train import TrainedArchive, train_mend

__all__ = ["ArchiveError", "TrainedArchive", "apply_mend_to_model", "archive_path", "train_mend"]
