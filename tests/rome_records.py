"""Three records in ROME's form."""

from __future__ import annotations


def rome(case_id, subject, relation="P36", target="Q456"):
    return {
        "case_id": case_id,
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "relation_id": relation,
            "target_new": {"str": "Lyon", "id": target},
            "target_true": {"str": "Paris", "id": "Q90"},
            "subject": subject,
        },
        "paraphrase_prompts": [f"{subject} is governed from"],
        "neighborhood_prompts": ["The city of the Louvre is"],
        "generation_prompts": [f"{subject}'s largest city is"],
    }


RECORDS = [rome(70, "France"), rome(71, "Peru"), rome(72, "Japan")]
