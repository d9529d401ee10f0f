"""NSE in EasyEdit on a model you have loaded yourself, whatever its name or architecture.

    python examples/loaded_model.py [FOLDER] [HPARAMS]

FOLDER holds a causal language model of transformers (default: the small model of the demo). HPARAMS is the name of a
preset or a YAML file (default: the preset for that model).
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
hparams.batch_size = 1  # EasyEdit's `edit` takes one fact at a time, its `batch_edit` takes `batch_size` facts

editor = make_editor(model, tokenizer, hparams)

# A single edit, scored by EasyEdit and then undone (sequential_edit=False restores the weights).
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
