"""Every form of record gives the intended fact, or an error that says what is wrong."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files

import pytest
from hypothesis import given, settings
from record_forms import FACTS, FRANCE

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conversion import as_facts

EASYEDIT_FLAT = {
    "case_id": 3,
    "prompt": "The capital of France is",
    "subject": "France",
    "target_new": "Lyon",
    "ground_truth": "Paris",
    "rephrase_prompt": "In France, the seat of government is",
    "locality_prompt": "The capital of Italy is",
    "locality_ground_truth": "Rome",
}
EASYEDIT_REQUEST = {
    "prompt": "The capital of France is",
    "subject": "France",
    "target_new": "Lyon",
    "ground_truth": "Paris",
    "rephrase_prompt": "In France, the seat of government is",
    "portability": {},
    "locality": {"neighborhood": {"prompt": ["The capital of Italy is"], "ground_truth": [["Rome", "Roma"]]}},
}
ROME = {
    "case_id": 3,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "subject": "France",
        "target_new": {"str": "Lyon", "id": "Q456"},
        "target_true": {"str": "Paris", "id": "Q90"},
        "relation_id": "P36",
    },
    "paraphrase_prompts": ["In France, the seat of government is"],
    "neighborhood_prompts": ["The city of the Louvre is"],
    "attribute_prompts": ["The old town of Lyon is"],
    "generation_prompts": ["France is ruled from", "France is ruled from"],
}
ZSRE = {
    "subject": "France",
    "src": "What is the capital of France?",
    "alt": "Lyon",
    "answers": ["Paris"],
    "rephrase": "Which city is the capital of France?",
    "loc": "nq question: who wrote Hamlet",
    "loc_ans": "Shakespeare",
}
GPT4 = {
    "Recalled Relation": "(Lyon, river, Saone)",
    "New Question": "Which river crosses the capital of France?",
    "New Answer": "Saone",
}
KNOWEDIT_ZSRE = {
    "subject": "France",
    "prompt": "What is the capital of France?",
    "target_new": "Lyon",
    "ground_truth": ["Paris", "City of Paris"],
    "rephrase_prompt": "Which city is the capital of France?",
    "portability": {"Reasoning": [{"prompt": "Which river runs through it?", "ground_truth": ["Rhone"]}]},
    "locality": {"Relation_Specificity": [{"prompt": "The capital of Italy is", "ground_truth": ["Rome"]}]},
}
KNOWEDIT_WIKI = {
    "subject": "France",
    "prompt": "The capital of France is",
    "target_new": "Lyon",
    "ground_truth": "Paris",
    "rephrase": "In France, the seat of government is",
    "portability": {"Subject_Aliasing": [{"prompt": "Its capital is", "ground_truth": [["Lyon", "Lugdunum"]]}]},
    "locality": {
        "Relation_Specificity": [{"prompt": ["The capital of Italy is"], "ground_truth": [["Rome", "Roma"], ["Urbs"]]}],
        "Forgetfulness": [
            {"prompt": "The old capital is", "ground_truth": [[""]]},
            {"prompt": "a", "ground_truth": []},
        ],
        "Others": None,
    },
}
DEMO = {
    "case_id": 3,
    "relation": "capital",
    "prompt": "The capital of {} is",
    "subject": "France",
    "target_new": "Lyon",
    "target_true": "Paris",
    "rephrase_prompts": ["In France, the seat of government is"],
    "locality_prompts": [{"prompt": "The capital of Italy is", "answer": "Rome"}],
}


@pytest.mark.parametrize(
    ("record", "prompt", "locality"),
    [
        (EASYEDIT_FLAT, "The capital of {} is", ("The capital of Italy is", "Rome")),
        (EASYEDIT_REQUEST, "The capital of {} is", ("The capital of Italy is", "Rome")),
        (ROME, "The capital of {} is", ("The city of the Louvre is", "Paris")),
        (ZSRE, "What is the capital of {}?", ("nq question: who wrote Hamlet", "Shakespeare")),
        (KNOWEDIT_ZSRE, "What is the capital of {}?", ("The capital of Italy is", "Rome")),
        (KNOWEDIT_WIKI, "The capital of {} is", ("The capital of Italy is", "Rome")),
        (DEMO, "The capital of {} is", ("The capital of Italy is", "Rome")),
    ],
    ids=["easyedit", "easyedit-request", "rome", "zsre", "knowedit-zsre", "knowedit-wiki", "demo"],
)
def test_every_record_form_gives_the_same_fact(record, prompt, locality):
    fact = Fact.from_record(record, case_id=3)
    assert (fact.prompt, fact.subject, fact.target_new, fact.target_true) == (prompt, "France", "Lyon", "Paris")
    assert "France" in fact.rephrase_prompts[0]
    assert len(fact.rephrase_prompts) == 1
    assert fact.locality_prompts == (locality,)
    assert fact.case_id == 3


def test_a_passage_of_knowedits_wikibio_is_continued_with_its_label():
    fact = Fact.from_record({
        "text": "This is a passage about ada byron. Ada Byron was a mathematician.",
        "labels": "She wrote the first program.",
        "concept": "ada byron",
        "locality": {"Relation_Specificity": [{"prompt": "Ada Byron's father was", "ground_truth": ["Lord Byron"]}]},
    })  # fmt: skip
    assert fact == Fact(
        "This is a passage about {}. Ada Byron was a mathematician.",
        "ada byron",
        "She wrote the first program.",
        locality_prompts=(("Ada Byron's father was", "Lord Byron"),),
        separator=" ",
    )


@pytest.mark.parametrize(
    ("record", "separator"),
    [
        ({"prompt": "{} is in", "target_new": "Peru"}, None),  # where words meet there is a space anyway
        ({"prompt": "Where is {}?", "target_new": "Peru"}, " "),
        ({"prompt": "Where is {}?", "target_new": "Peru", "separator": ""}, ""),
        ({"prompt": "Where is {}?", "target_new": "Peru", "separator": None}, None),
        ({"prompt": "{} is in", "target_new": "Peru", "rephrase_prompts": ["Where is Rome?"]}, " "),
        ({"prompt": "{} is in", "target_new": "Peru", "portability_prompts": [["Rome's river:", "Amazon"]]}, " "),
        ({"prompt": "Where is {}?\n", "target_new": "Peru"}, None),
        ({"prompt": "{}在", "target_new": "秘鲁"}, None),
        ({"prompt": "{}在哪里\N{FULLWIDTH QUESTION MARK}", "target_new": "秘鲁"}, None),
        ({"src": "Where is Rome?", "alt": "Peru"}, " "),
    ],
)
def test_records_mean_what_easyedit_and_rome_mean_by_them(record, separator):
    """They put a space before every target; text that has white space there, or a script without any, gets none."""
    assert Fact.from_record({"subject": "Rome", **record}).separator == separator


def test_generation_prompts_are_kept_as_rome_gives_them():
    assert Fact.from_record(ROME).generation_prompts == ("France is ruled from", "France is ruled from")
    assert Fact.from_record(ZSRE).generation_prompts == ()
    assert Fact.from_record(ROME).reference_texts == ()


@pytest.mark.parametrize(
    ("record", "portability"),
    [
        (EASYEDIT_FLAT, ()),
        (EASYEDIT_REQUEST, ()),
        (KNOWEDIT_ZSRE, (("Which river runs through it?", "Rhone"),)),
        (KNOWEDIT_WIKI, (("Its capital is", "Lyon"),)),
        ({**ZSRE, "portability": GPT4}, (("Which river crosses the capital of France?", "Saone"),)),
        ({**ROME, "portability": GPT4}, (("Which river crosses the capital of France?", "Saone"),)),
        (
            {**EASYEDIT_REQUEST, "portability": {"hop": {"prompt": ["a", "b"], "ground_truth": [["A", "a"], "B"]}}},
            (("a", "A"), ("b", "B")),
        ),
        ({**EASYEDIT_REQUEST, "portability": {"hop": {"prompt": "a", "ground_truth": "A"}}}, (("a", "A"),)),
        ({**DEMO, "portability": {"2hop": {"prompt": None, "ground_truth": None}, "Others": None}}, ()),
        ({**DEMO, "portability": [{"prompt": "a", "answer": "A"}]}, (("a", "A"),)),
        ({**DEMO, "portability": None}, ()),
    ],
)
def test_portability_is_read_from_every_form(record, portability):
    fact = Fact.from_record(record)
    assert fact.portability_prompts == portability
    if record.get("requested_rewrite") is None:
        assert fact.reversal_prompts == ()


@pytest.mark.parametrize(
    "change",
    [
        {"reversal_prompts": [{"prompt": "Lyon is the capital of", "answer": "France"}]},
        {"portability": {"Reverse_Relation": {"prompt": "Lyon is the capital of", "ground_truth": ["France"]}}},
        {"generalization": {"yes": {"prompt": "a", "ground_truth": "Yes"},
                            "reversed": {"prompt": "Lyon is the capital of", "ground_truth": "France"}}},
    ],
    ids=["own", "portability", "generalization"],
)  # fmt: skip
def test_reversal_is_read_where_data_have_it(change):
    fact = Fact.from_record({**DEMO, **change})
    assert fact.reversal_prompts == (("Lyon is the capital of", "France"),)
    assert fact.portability_prompts == ()


def test_a_counterfact_record_is_told_backwards_by_its_relation():
    assert Fact.from_record(ROME).reversal_prompts == (("Lyon is the capital of", "France"),)
    own = {**ROME, "reversal_prompts": [["Lyon has been the capital of", "France"]]}
    assert Fact.from_record(own).reversal_prompts == (("Lyon has been the capital of", "France"),)
    unknown = {**ROME, "requested_rewrite": {**ROME["requested_rewrite"], "relation_id": "P0"}}
    assert Fact.from_record(unknown).reversal_prompts == ()


def test_the_reversed_sentences_hold_the_target_once_and_end_before_the_subject():
    templates = json.loads((files("nse_plugin.data") / "reversal_templates.json").read_text(encoding="utf-8"))
    assert templates["P36"] == "{} is the capital of"
    for relation, sentence in templates.items():
        assert relation[0] == "P"
        assert relation[1:].isdigit()
        assert sentence.startswith("{} ")
        assert sentence.count("{}") == 1
        assert sentence[-1].isalpha()


@settings(deadline=None)
@given(FACTS)
def test_a_fact_survives_romes_form(fact):
    true = fact.target_true or "true"
    neighbours = [prompt for prompt, _ in fact.locality_prompts]
    pairs = [(prompt, true) for prompt in neighbours]
    fact = dataclasses.replace(fact, target_true=true, locality_prompts=pairs, reference_texts=())
    assert fact == Fact.from_record({
        "case_id": fact.case_id,
        "separator": None,
        "requested_rewrite": {
            "prompt": fact.prompt,
            "subject": fact.subject,
            "target_new": {"str": fact.target_new, "id": "Q1"},
            "target_true": {"str": true, "id": "Q2"},
        },
        "paraphrase_prompts": list(fact.rephrase_prompts),
        "neighborhood_prompts": neighbours,
        "generation_prompts": list(fact.generation_prompts),
        "portability_prompts": [list(pair) for pair in fact.portability_prompts],
        "reversal_prompts": [{"prompt": prompt, "answer": answer} for prompt, answer in fact.reversal_prompts],
    })  # fmt: skip


def test_the_records_own_number_goes_before_the_callers():
    assert Fact.from_record(DEMO, case_id=99).case_id == 3
    assert Fact.from_record({**DEMO, "case_id": None}, case_id=99).case_id == 99
    assert Fact.from_record(EASYEDIT_REQUEST).case_id is None


def test_neighbours_without_an_answer_share_the_true_one():
    fact = Fact.from_record({**DEMO, "locality_prompts": ["The city of the Louvre is", ("Rome is in", "Italy")]})
    assert fact.locality_prompts == (("The city of the Louvre is", "Paris"), ("Rome is in", "Italy"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subject": None}, ["subject is missing", "'{}' in its place", "write it out"]),
        (
            {"subject": None, "prompt": "Who wrote it?", "rephrase_prompts": []},
            ["subject is missing", "'Who wrote it?'"],
        ),
        ({"subject": " "}, ["subject is ' '", "non-empty"]),
        ({"target_new": None}, ["target_new", "missing"]),
        ({"prompt": 7}, ["prompt", "7"]),
        ({"prompt": "The capital of Italy is"}, ["prompt", "does not contain", "'France'", "'{}'"]),
        ({"prompt": "France is the capital of France"}, ["prompt", "contains 2 times", "'France'", "'{}'"]),
        ({"locality_prompts": [{"prompt": "The capital of Italy is"}]}, ["malformed", "answer"]),
        ({"locality_prompts": ["Rome is in"], "target_true": None}, ["malformed", "target_true"]),
        ({"locality_prompt": ["a", "b"], "locality_ground_truth": ["c"]}, ["malformed"]),
        ({"locality": ["a"]}, ["malformed"]),
        ({"portability": {"New Question": "a"}}, ["malformed", "New Answer"]),
        ({"portability": {"hop": {"prompt": ["a", "b"], "ground_truth": ["c"]}}}, ["malformed"]),
        (
            {"portability": {"hop": {"prompt": "a", "ground_truth": ""}}},
            ["portability_prompts", "(prompt, true answer)"],
        ),
        ({"reversal_prompts": [{"prompt": "Lyon is the capital of"}]}, ["malformed", "answer"]),
        ({"locality": {"Forgetfulness": [{"prompt": "Rome is in"}]}}, ["malformed", "ground_truth"]),
        ({"locality_prompts": "Rome is in"}, ["malformed", "locality_prompts", "'Rome is in'", "not a list"]),
        ({"locality_prompt": "a", "locality_ground_truth": ""}, ["locality_prompts", "(prompt, true answer)"]),
        ({"target_true": 7}, ["target_true", "7"]),
        ({"rephrase_prompts": ["a", ""]}, ["rephrase_prompts", "''", "non-empty"]),
        ({"generation_prompts": "one text"}, ["generation_prompts", "'one text'", "list of strings"]),
        ({"requested_rewrite": "France"}, ["malformed"]),
    ],
)
def test_a_record_that_cannot_be_read_says_which_and_why(change, words):
    with pytest.raises(FactError) as caught:
        Fact.from_record({**DEMO, **change})
    message = str(caught.value)
    assert message.startswith("fact 3: ")
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_zsre_record_with_another_subject_says_so():
    with pytest.raises(FactError, match="fact 5: prompt 'What is the capital of France.' does not contain the subject"):
        Fact.from_record({**ZSRE, "subject": "Italy"}, case_id=5)
    with pytest.raises(FactError, match="fact 5: prompt 'The capital of France is' does not contain the subject"):
        Fact.from_record({**KNOWEDIT_WIKI, "subject": "france"}, case_id=5)


@pytest.mark.parametrize("record", [EASYEDIT_FLAT, EASYEDIT_REQUEST, ROME, ZSRE, KNOWEDIT_ZSRE, KNOWEDIT_WIKI, DEMO])
def test_a_record_of_any_form_without_a_subject_gets_the_one_in_its_texts(record):
    expected = Fact.from_record(record)
    if record is ROME:
        rewrite = {**ROME["requested_rewrite"], "prompt": expected.text, "subject": None}
        expected = dataclasses.replace(expected, reversal_prompts=())  # which end in the subject
        record = {**ROME, "requested_rewrite": rewrite}
    else:
        record = {**record, **({"prompt": expected.text} if "prompt" in record else {})}
        record.pop("subject")
    assert Fact.from_record(record) == expected
    assert as_facts([record, FRANCE]) == [expected, FRANCE]


def test_a_record_must_be_a_mapping():
    with pytest.raises(FactError, match="mapping, not list"):
        Fact.from_record(["The capital of France is"])


@pytest.mark.parametrize(
    ("prompt", "subject", "template"),
    [
        ("Art is what an Artist makes", "Art", "{} is what an Artist makes"),
        ("An Artist makes Art", "Art", "An Artist makes {}"),
        ("France's capital is", "France", "{}'s capital is"),
        ('"Yahoo!" was founded by', "Yahoo!", '"{}" was founded by'),
        ("1984 was written, not in 21984, by", "1984", "{} was written, not in 21984, by"),
        ("日本の首都は", "日本", "{}の首都は"),  # scripts that put no spaces between words
        ("프랑스의 수도는", "프랑스", "{}의 수도는"),
    ],
)
def test_a_subject_is_found_as_a_whole_word(prompt, subject, template):
    fact = Fact.from_record({"prompt": prompt, "subject": subject, "target_new": "x"})
    assert fact.prompt == template
    assert fact.text == prompt


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The Artist lives in", "Art"), ("My smartphone is made by", "art"), ("Парижанин живёт в", "Париж"),
        ("In the 1960s the capital was", "1960"), ("Cafe\u0301 owners live in", "Cafe"),
    ],
)  # fmt: skip
def test_a_subject_within_a_longer_word_is_refused(prompt, subject):
    record = {"prompt": prompt, "subject": subject, "target_new": "x"}
    with pytest.raises(FactError, match="only within a longer word: give the whole word as the subject, or write '{}'"):
        Fact.from_record(record)
    named = Fact.from_record({**record, "prompt": prompt.replace(subject, "{}")})
    assert named.text == prompt


def test_braces_beside_a_subject_that_is_written_out_are_said(caplog):
    record = {"prompt": "Japan is large. The capital of {} is", "subject": "Japan", "target_new": "Kyoto"}
    assert Fact.from_record(record, case_id=3).prompt == record["prompt"]
    [message] = caplog.messages
    assert message.startswith(
        "fact 3: prompt 'Japan is large. The capital of {} is' has '{}' and the subject 'Japan' as"
    )
    assert message.endswith("it is edited at '{}'.")
    caplog.clear()
    assert Fact.from_record({**record, "prompt": "Japanese food in {} is"}).text == "Japanese food in Japan is"
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("taget_new", "target_new"), ("Target_New", "target_new"), ("target-new", "target_new"), ("promt", "prompt"),
        ("subjects", "subject"), ("rephrase_promts", "rephrase_prompts"), ("locality prompts", "locality_prompts"),
    ],
)  # fmt: skip
def test_a_misspelt_field_is_told(given, meant):
    record = {"prompt": "{} is in", "subject": "Rome", "target_new": "Peru", "rephrase_prompts": [], "notes": "x"}
    record = {name: value for name, value in record.items() if name != meant}
    with pytest.raises(FactError, match=f"fact 1: there is no field '{given}': did you mean '{meant}'"):
        Fact.from_record({**record, given: "x"}, case_id=1)


@pytest.mark.parametrize("record", [EASYEDIT_FLAT, EASYEDIT_REQUEST, ROME, ZSRE, KNOWEDIT_ZSRE, KNOWEDIT_WIKI, DEMO])
def test_fields_that_a_fact_has_no_place_for_are_left_alone(record):
    more = {"relation_id": "P36", "note": "x", "pararel_idx": 7, "attribute_prompts": ["x"], "cond": "a >> b", 5: "x"}
    assert Fact.from_record({**record, **more}) == Fact.from_record(record)
    assert Fact.from_record({**DEMO, "prompts": ["x"], "target_new_id": "Q1"}) == Fact.from_record(DEMO)


def test_a_misspelt_field_of_another_form_is_told_too():
    with pytest.raises(FactError, match="no field 'paraphrase_promts': did you mean 'paraphrase_prompts'"):
        Fact.from_record({**{k: v for k, v in ROME.items() if k != "paraphrase_prompts"}, "paraphrase_promts": ["x"]})
    with pytest.raises(FactError, match="no field 'rephrases': did you mean 'rephrase'"):
        Fact.from_record({**{k: v for k, v in ZSRE.items() if k != "rephrase"}, "rephrases": "x"})
