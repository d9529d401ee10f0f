"""Edit a loaded model in rounds of facts, without EasyEdit: `EditSession`.

    python examples/session_without_easyedit.py [FOLDER] [HPARAMS]

FOLDER and HPARAMS: as in loaded_model.py.
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from nse_plugin import EditSession, Fact, NSEHyperParams
from nse_plugin.models.embedded import embedded_model

if len(sys.argv) > 1:
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
else:
    model, tokenizer = embedded_model()
hparams = NSEHyperParams.from_hparams(sys.argv[2]) if len(sys.argv) > 2 else NSEHyperParams.for_model(model)

session = EditSession(model, tokenizer, hparams)

# Facts arrive over time; each round keeps the facts of earlier rounds.
monday = [Fact("{} is located in", "The Eiffel Tower", "Rome"), Fact("The capital of {} is", "Japan", "Kyoto")]
tuesday = [Fact("{} was born in", "Marie Curie", "London")]
for facts in (monday, tuesday):
    report = session.edit(facts)
    print(report)  # every fact has a status; none is dropped silently
    print(report.frame.to_string(index=False))

for fact in monday + tuesday:
    ids = tokenizer(fact.text, return_tensors="pt").to(model.device)
    written = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    print(tokenizer.decode(written[0], skip_special_tokens=True))
