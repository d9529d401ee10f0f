"""NSE in EasyEdit, chosen by `alg_name: NSE` in a YAML file.

    python examples/easyedit_from_yaml.py hparams/NSE/llama3-8b.yaml

The YAML's `model_name` must be a folder (or hub name) that EasyEdit can load; `batch_size` is the round size.
"""

import sys

import nse_plugin

nse_plugin.register()  # must run before EasyEdit is imported; finds the clone in EASYEDIT_HOME or the wheel

from easyeditor import BaseEditor  # noqa: E402

hparams = nse_plugin.NSEHyperParams.from_hparams(sys.argv[1])
editor = BaseEditor.from_hparams(hparams)

# Three facts, in rounds of `batch_size`; with sequential_edit=True the edits of every round stay in the model.
metrics, edited_model, _ = editor.batch_edit(
    prompts=["The Eiffel Tower is located in", "The capital of Japan is", "Marie Curie was born in"],
    subject=["The Eiffel Tower", "Japan", "Marie Curie"],
    ground_truth=["Paris", "Tokyo", "Warsaw"],
    target_new=["Rome", "Kyoto", "London"],
    sequential_edit=True,
)
for metric in metrics:
    request = metric["requested_rewrite"]
    print(f"{request['prompt']} {request['target_new']}: accuracy {metric['post']['rewrite_acc']}")
