"""The same questions in two forms: as `Question`s, and as a task of lm-evaluation-harness in local files."""

from __future__ import annotations

import json
from pathlib import Path

from nse_plugin.evaluation.ability.multiple_choice import Question

LETTERS = "ABCD"
_TEXTS = [
    ("Where does the river run?", "old_towns", ("through the town", "in Rome", "behind the wind", "in Japan")),
    ("  Who was born in Warsaw? ", "old_towns", ("Marie Curie", "He", "She", "the violin")),
    ("What is the capital of Germany?\nThe old one?", "rain", ("Paris", "Lyon", "Berlin", "Rome")),
    ("Why is the wind cold?", "rain", ("because of rain", "of {Italy}", "", "it is <not> & 'is'")),
    (
        "What does she speak, and what does he play, in the old town by the river?",
        "Fran\u00e7ais",
        ("\u6cd5", "A", "B", "D"),
    ),
    ("Where does Mount Fuji stand?", "mountains", ("in Japan", "in Italy", "in Paris", "in the rain")),
]
_YAML = """
task: towns
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
description: "The following are multiple choice questions (with answers) about {{{{about}}}}.\\n\\n"
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nC. {{{{choices[2]}}}}\\n\
D. {{{{choices[3]}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def questions() -> list[Question]:
    """Of mixed length, with spaces around, two lines, an empty choice, braces, and other alphabets."""
    return [Question(*text, answer=number % 4) for number, text in enumerate(_TEXTS)]


def questions_file(folder: Path) -> Path:
    """For `--questions`."""
    path = folder / "own.json"
    path.write_text(json.dumps([vars(question) for question in questions()]), encoding="utf-8")
    return path


def task_file(folder: Path) -> Path:
    """The task `towns`, in MMLU's form, and its data."""
    data, task = folder / "towns.jsonl", folder / "towns.yaml"
    lines = [json.dumps({**vars(q), "about": q.subject.replace("_", " ")}) for q in questions()]
    data.write_text("\n".join(lines), encoding="utf-8")
    task.write_text(_YAML.format(data=data), encoding="utf-8")
    return task
