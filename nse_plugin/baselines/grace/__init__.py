"""GRACE: edits kept in a codebook beside one layer, no weight changed (Hartvigsen et al. 2023, arXiv 2211.11031).

An entry i of the codebook is a key k_i, a value v_i, a radius eps_i and a label, the target it stands for. For the
activation h that enters the layer f, with i the nearest key,

    GRACE(h) = v_i   if norm(h - k_i) <= eps_i
               f(h)  otherwise.

An edit takes the activation at its prompt's last token as key, and learns the value by gradient descent on the target.

**Where keys are looked up.** The paper looks up the prompt's last token. But where a prompt ends is known only to
whoever wrote the text: the model sees the prompt alone when it generates, prompt and target in one row when it is
evaluated, one token at a time with a KV cache. So here *every position* is looked up, and replaced on its own. In a
causal model the activation at a position depends on the tokens up to it and on no others; a position therefore
matches when the text up to there is like an edited prompt, whatever follows. It makes the answer
the same for a prompt alone, a prompt with its target, any batch, left or right padding, and generation with a cache.
Any other rule that depends on the length of the row (EasyEdit's `replace_all`, or its remembered `key_id`) does not.
"""

from nse_plugin.baselines.grace.apply import apply_grace_to_model, codebook_of, resume, unwrap
from nse_plugin.baselines.grace.codebook import Codebook
from nse_plugin.baselines.grace.hparams import GRACEHyperParams
from nse_plugin.baselines.grace.layer import GRACELayer

__all__ = [
    "Codebook",
    "GRACEHyperParams",
    "GRACELayer",
    "apply_grace_to_model",
    "codebook_of",
    "resume",
    "unwrap",
]
