"""NSE in EasyEdit on a model you have loaded yourself, of whatever name or architecture.

    python examples/loaded_model.py [FOLDER] [HPARAMS]

FOLDER is any transformers causal language model (default: the small one that comes with the demo), HPARAMS a preset's
name or a YAML file (default: the preset for that model).
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from nse_plugin import NSEHyperParams, make_editor
from nse_plugin.models.embedded import embedded_model

if len(sys.argv) > 1:
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
else:
    model, tokenizer = embedded_model()
hparams = NSEHyperParams.from_hparams(sys.argv[2]) if len(sys.argv) > 2 else NSEHyperParams.for_model(model)
hparams.batch_size = 1  # EasyEdit's `edit` takes one fact at a time; `batch_edit` takes as many as this

editor = make_editor(model, tokenizer, hparams)

# A single edit, scored by EasyEdit and then undone (sequential_edit=False puts the weights back).
metrics, _, _ = editor.edit(
    prompts="The Eiffel Tower is located in",
    subject="The Eiffel Tower",
    ground_truth="Paris",
    target_new="Rome",
    sequential_edit=False,
)
print(
    f"accuracy on the new target: before {metrics[0]['pre']['rewrite_acc']}, after {metrics[0]['post']['rewrite_acc']}"
)
