"""Numbers published in the NSE paper, for comparison with one's own: CounterFact, 2,000 edits in rounds of 100.

Efficacy, Generalization, Specificity in percent, Fluency and Consistency times 100; None if no number is given here.
"""

from __future__ import annotations

SOURCE = "Jiang et al., Neuron-Level Sequential Editing for Large Language Models, ACL 2025, arXiv 2410.04045"
SETTING = "CounterFact, 2,000 edits in rounds of 100"
TITLES = ("Efficacy", "Generalization", "Specificity", "Fluency", "Consistency")
PUBLISHED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "Llama3-8B": {
        "before": (7.85, 10.58, 89.48, 635.23, 24.14),
        "FT": (83.33, 67.79, 46.63, 233.72, 8.77),
        "MEND": (63.24, 61.17, 45.37, 372.16, 4.21),
        "ROME": (64.40, 61.42, 49.44, 449.06, 3.31),
        "MEMIT": (65.65, 64.65, 51.56, 437.43, 6.58),
        "GRACE": (90.72, 0.09, 87.23, 632.43, 23.79),
        "AlphaEdit": (98.90, 94.22, 67.88, 622.49, 32.40),
        "NSE": (96.14, 78.42, 87.66, 632.72, 30.20),
        "NSE without rewinding": (98.90, 91.18, 76.60, 625.65, 32.30),
        "NSE without neuron update": (96.00, 77.13, 87.68, None, None),
    },
    "GPT2-XL": {
        "MEMIT": (94.70, None, 60.50, None, None),
        "NSE": (96.80, None, 72.10, None, None),
    },
    "GPT-J-6B": {
        "MEMIT": (98.55, None, 63.64, None, None),
        "NSE": (99.55, None, 78.96, None, None),
    },
}
