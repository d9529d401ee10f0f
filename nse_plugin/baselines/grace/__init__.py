"""GRACE: edits are stored in a codebook at one layer, no weight is changed (Hartvigsen et al. 2023, arXiv 2211.11031).

An entry i of the codebook has a key k_i, a value v_i, a radius eps_i and a label, its target. For an input h of the
layer f, with i the entry of the nearest key,

    GRACE(h) = v_i   if norm(h - k_i) <= eps_i
               f(h)  otherwise.

An edit uses the layer's input at its prompt's last token as key, and learns the value by gradient descent on the loss
of the target.

**Where keys are looked up.** The paper looks up the prompt's last token. But only the author of a text knows where a
prompt ends: the model sees the prompt alone in generation, prompt and target in one row in the evaluation, and one
token at a time with a KV cache. So here *every position* is looked up, and replaced independently. In a causal model
the activation at a position depends only on the tokens up to it; a position therefore matches if the text up to it is
like an edited prompt, whatever follows. The answer is then the same for a prompt alone, a prompt with its target, any
batch, left or right padding, and generation with a cache. It would not be with a rule that depends on the length of the
row (EasyEdit's `replace_all`, or its stored `key_id`).
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
