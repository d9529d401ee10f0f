"""Facts, and the record forms they are read from."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from types import MappingProxyType

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conversion import as_facts
from nse_plugin.facts.texts import continuation

FRANCE = Fact("The capital of {} is", "France", "Lyon", "Paris")

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


@pytest.mark.parametrize(
    ("prompt", "target", "separator", "joined"),
    [
        ("Rome is in", "Peru", None, " Peru"),
        ("It was founded in", "1871", None, " 1871"),
        ("He was born in 19", "71", None, " 71"),
        ("Rome is in", " Peru", None, " Peru"),
        ("Rome is in ", "Peru", None, "Peru"),
        ("Rome is in ", " Peru", None, "Peru"),  # one space, written twice
        ("Where is Rome?\n", "Peru", None, "Peru"),
        ("assistant\n", "\tPeru", None, "\tPeru"),
        ("Answer:", "Peru", None, "Peru"),
        ('He said "', "Peru", None, "Peru"),
        ("Rome (", "Peru", None, "Peru"),
        ("Rome is in", "(Peru)", None, "(Peru)"),
        ("罗马在", "秘鲁", None, "秘鲁"),
        ("ローマは", "ペルー", None, "ペルー"),
        ("กรุงโรมอยู่ที่", "เปรู", None, "เปรู"),
        ("罗马在", "Peru", None, "Peru"),
        ("Rome is written", "罗马", None, "罗马"),
        ("로마는", "페루", None, " 페루"),
        ("रोम की राजधानी", "पेरू", None, " पेरू"),  # ends in a vowel's mark
        ("روما في", "بيرو", None, " بيرو"),
        ("Рим в", "Перу", None, " Перу"),
        ("Rome is in Pe", "ru", "", "ru"),
        ("Answer:", "Peru", " ", " Peru"),
        ("Rome is in", "Peru", "\n", "\nPeru"),
        ("Rome is in\n", "Peru", " ", "Peru"),
    ],
)
def test_prompt_and_target_are_taken_as_they_are_written(prompt, target, separator, joined):
    assert continuation(prompt, target, separator) == joined
    assert Fact("{}", prompt, target, separator=separator).asked(prompt, target)[2:] in ((separator,), ())


def test_a_separator_is_a_string():
    for wrong in (1, ["\n"], "\ud800"):
        with pytest.raises(FactError, match="fact 3: separator is .*: give a string, '' for none, or None"):
            Fact("{} is", "Rome", "Peru", case_id=3, separator=wrong)


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


TEXT = st.text(min_size=1).filter(lambda text: text.strip())
FACTS = st.builds(
    Fact,
    prompt=st.tuples(TEXT, TEXT).map("{}".join).filter(lambda prompt: prompt.count("{}") == 1),
    subject=TEXT,
    target_new=TEXT,
    target_true=st.none() | TEXT,
    rephrase_prompts=st.lists(TEXT, max_size=3),
    locality_prompts=st.lists(st.tuples(TEXT, TEXT), max_size=3),
    case_id=st.none() | st.integers() | TEXT,
    generation_prompts=st.lists(TEXT, max_size=3),
    reference_texts=st.lists(TEXT, max_size=3),
    portability_prompts=st.lists(st.tuples(TEXT, TEXT), max_size=3),
    reversal_prompts=st.lists(st.tuples(TEXT, TEXT), max_size=3),
)


@settings(deadline=None)
@given(FACTS)
def test_a_fact_of_its_own_fields_comes_back_as_it_is(fact):
    fields = dataclasses.asdict(fact)
    assert Fact.from_record(fields) == fact
    assert Fact.from_record(json.loads(json.dumps(fields))) == fact


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


def test_only_the_edit_is_required():
    fact = Fact.from_record({"prompt": "{} stands in", "subject": "Mount Fuji", "target_new": "Germany"})
    assert fact == Fact("{} stands in", "Mount Fuji", "Germany")
    assert fact.text == "Mount Fuji stands in"


def test_the_subject_is_put_where_the_braces_are_even_if_it_holds_braces():
    assert Fact("The set {1, 2} of {} is", "a{}b", "x").text == "The set {1, 2} of a{}b is"


def test_facts_can_be_compared_hashed_and_not_changed():
    assert len({FRANCE, dataclasses.replace(FRANCE), dataclasses.replace(FRANCE, rephrase_prompts=["a"])}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        FRANCE.subject = "Italy"


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


def test_a_fact_without_a_subject_has_one_from_then_on(caplog):
    caplog.set_level("INFO", "nse_plugin.facts")
    fact = Fact("The capital of France is", None, "Lyon", "Paris")
    assert fact == FRANCE
    assert caplog.messages == ["the subject of 'The capital of France is' is found to be 'France'."]
    caplog.clear()
    assert dataclasses.replace(fact, subject="Italy").text == "The capital of Italy is"
    assert Fact.from_record(dataclasses.asdict(fact)) == fact
    with pytest.raises(FactError, match="fact 3: subject is missing, and prompt 'Who wrote it.' does not tell"):
        Fact("Who wrote it?", None, "Ada", case_id=3)
    with pytest.raises(FactError, match="subject is missing, and prompt 'Where is {}.' has '{}' in its place: give"):
        Fact("Where is {}?", None, "Peru")
    with pytest.raises(FactError, match="subject is ''"):
        Fact("The capital of France is", "", "Lyon")
    assert caplog.messages == []


def test_a_name_counts_once():
    fact = dataclasses.replace(FRANCE, aliases=("La France", " France", "Frankreich ", "La France ", "Frankreich"))
    assert fact.names == ("France", "La France", "Frankreich ")


def test_a_record_must_be_a_mapping():
    with pytest.raises(FactError, match="mapping, not list"):
        Fact.from_record(["The capital of France is"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rephrase_prompts": "one string"}, "rephrase_prompts is 'one string': give a list of strings."),
        ({"generation_prompts": 7}, "generation_prompts is 7: give a list of strings."),
        ({"generation_prompts": ["a", None]}, "generation_prompts holds None: give non-empty strings only."),
        ({"reference_texts": ["a", " "]}, "reference_texts holds ' ': give non-empty strings only."),
        ({"locality_prompts": ("q", "a")}, "locality_prompts is .*: give .prompt, true answer. pairs"),
        ({"locality_prompts": ["ab"]}, "locality_prompts is .*: give .prompt, true answer. pairs"),
        ({"locality_prompts": [("q", None)]}, "locality_prompts is .*: give .prompt, true answer. pairs"),
        ({"locality_prompts": 7}, "locality_prompts is 7: give .prompt, true answer. pairs"),
        ({"portability_prompts": [("q", "")]}, "portability_prompts is .*: give .prompt, true answer. pairs"),
        ({"reversal_prompts": "ab"}, "reversal_prompts is 'ab': give .prompt, true answer. pairs"),
        ({"target_true": " "}, "target_true is ' ': give a non-empty string, or None."),
        ({"case_id": [1]}, r"case_id is \[1\]: give an integer or a string."),
    ],
)
def test_what_measures_is_checked_too(change, words):
    with pytest.raises(FactError, match=words):
        dataclasses.replace(FRANCE, **change)


def test_lists_become_tuples():
    fact = dataclasses.replace(FRANCE, generation_prompts=["a"], reference_texts=(text for text in "bc"))
    assert (fact.generation_prompts, fact.reference_texts) == (("a",), ("b", "c"))
    assert hash(fact) != hash(FRANCE)


def test_the_demo_facts_can_be_read():
    records = json.loads((files("nse_plugin.data") / "demo_facts.json").read_text(encoding="utf-8"))
    facts = [Fact.from_record(record) for record in records]
    assert len(facts) >= 60
    assert all(len(fact.rephrase_prompts) == 2 and len(fact.locality_prompts) == 3 for fact in facts)


# -- where the subject is


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


# -- names that are nearly right


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


# -- whatever somebody has


RECORD = {"prompt": "The capital of {} is", "subject": "France", "target_new": "Lyon", "target_true": "Paris"}


@pytest.mark.parametrize(
    "given",
    [FRANCE, RECORD, [FRANCE], [RECORD], (RECORD,), (fact for fact in [FRANCE]), {"a": FRANCE}.values(),
     MappingProxyType(RECORD)],
)  # fmt: skip
def test_facts_are_taken_as_people_have_them(given):
    assert as_facts(given) == [FRANCE]


def test_several_are_taken_in_their_order():
    other = Fact("{} is in", "Rome", "Peru", case_id="a")
    assert as_facts([RECORD, other]) == [FRANCE, other]
    assert as_facts([]) == []
    assert as_facts(pd.DataFrame([RECORD]).to_dict("records")) == [FRANCE]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("The capital of France is Lyon", "facts is 'The capital of France is Lyon': give a Fact, a dict with prompt,"),
        (b"x", "facts is b'x': give"),
        (None, "facts is None: give"),
        (7, "facts is 7: give"),
        (object(), "facts is of type object: give"),
        (
            pd.DataFrame([RECORD]),
            r"facts is of type DataFrame \(its .to_dict\('records'\) is what is wanted\): give a Fact",
        ),
        (pd.Series(RECORD), r"facts is of type Series \(its .to_dict\(\) is what is wanted\): give a Fact"),
        ([pd.Series(RECORD)], r"facts\[0\] is of type Series \(its .to_dict\(\) is what is wanted\): give a Fact"),
        ([FRANCE, "France"], r"facts\[1\] is 'France': give a Fact"),
        ([FRANCE, None], r"facts\[1\] is None: give a Fact"),
        ([[FRANCE]], r"facts\[0\] is of type list: give a Fact"),
        ([FRANCE, {"prompt": "{} is", "subject": "A"}], r"facts\[1\]: target_new is missing: "),
        ({"prompt": "{} is", "subject": "A", "taget_new": "B"}, "facts: there is no field 'taget_new': did you mean"),
    ],
)
def test_what_is_no_fact_is_told_in_one_sentence(given, words):
    with pytest.raises(FactError, match=f"^{words}") as caught:
        as_facts(given)
    assert "\n" not in str(caught.value)
    assert str(caught.value)[-1] in ".?"
