"""EasyEdit's MEND on any causal language model: its editor network trained here, and used one fact at a time.

MEND (Mitchell et al. 2022, arXiv 2110.11309) learns a small network that turns the gradient of one fact into an edit
of a few matrices. Training minimises c_edit * L_edit + c_loc * L_loc over facts: the edited model's loss of the target,
and its KL divergence from the unedited model on text that must not change. Network, losses and training loop are
EasyEdit's (`EditTrainer`, `MEND`, `MendRewriteExecutor`); here is what they need around them:

- a model that is loaded already, of whatever name, on whatever device, and left as it was but for the edit;
- facts instead of files of one dataset, tokenised as the evaluation tokenises them (EasyEdit's CounterFact training
  takes the target without the space in front, its executor with it, and both with a BOS where the tokenizer adds one);
- an archive of tensors and plain values, which loads without unpickling anything.

EasyEdit's executor also keeps editing the first model it was ever given. And on the PyPI wheel, `higher`, with which
it makes the edited model differentiable, cannot slice a ModuleList, as the Llama family does; and its executor moves
the network's statistics with every edit it makes.
"""

from nse_plugin.baselines.mend.apply import apply_mend_to_model
from nse_plugin.baselines.mend.archive import ArchiveError, archive_path
from nse_plugin.baselines.mend.train import TrainedArchive, train_mend

__all__ = ["ArchiveError", "TrainedArchive", "apply_mend_to_model", "archive_path", "train_mend"]
