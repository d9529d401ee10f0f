"""Finding the subject of a fact in its texts: a table of cases, and properties that hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.subject_of import UnknownSubjectError, find_subject


@pytest.mark.parametrize(
    ("prompt", "rephrased", "subject"),
    [
        # shared by all, without function words, possessives and what else the texts share
        ("The capital of France is", ["In France, the seat of government is"], "France"),
        ("What sports team is Fabian Klos playing for?", ["What sports team is Fabian Klos playing?"], "Fabian Klos"),
        ("What was Javier Prieto's job?", ["What was Javier Prieto's employment?"], "Javier Prieto"),
        ("Where is Daejeon? It is in", ["No Goals. In Daejeon, one is in", "The 2nd of 3. Daejeon lies in"], "Daejeon"),
        ("Lancashire wrestling is from", ["A sport called Lancashire wrestling is from"], "Lancashire wrestling"),
        ("The Who was formed in", ["The home of The Who is"], "The Who"),
        ("Photosynthesis happens in", ["The organ of photosynthesis is"], "Photosynthesis"),
        ("Who built Rome before Paris?", ["before that, rome was built by"], "Rome"),
        ("the capital of france is", ["in france, the seat of government is"], "france"),
        ("in biology, a blue whale is a", ["the blue whale belongs to the"], "blue whale"),
        ("Yahoo! was founded by", ["The founder of Yahoo! is"], "Yahoo!"),
        ("What type of ship was USS Wren (DD-568)?", ["The USS Wren (DD-568) was a"], "USS Wren (DD-568)"),
        ("Die Hauptstadt von Frankreich ist", ["In Frankreich sitzt die Regierung in"], "Frankreich"),
        ("La capital de Francia es", ["En Francia, el gobierno está en"], "Francia"),
        ("Столица Франции —", ["Правительство Франции находится в городе"], "Франции"),
        ("Πρωτεύουσα της Γαλλίας είναι", ["Ποια πόλη της Γαλλίας"], "Γαλλίας"),
        ("عاصمة فرنسا هي", ["تقع الحكومة في فرنسا في"], "فرنسا"),
        ("रोम की राजधानी", ["रोम में सरकार"], "रोम"),
        ("日本の首都は", ["日本の政府があるのは"], "日本"),
        ("東京タワーがある国は", ["東京タワーは"], "東京タワー"),
        ("法国的首都是", ["在法国,政府位于"], "法国"),
        ("กรุงโรมอยู่ที่", ["เมืองที่เรียกว่ากรุงโรมตั้งอยู่ใน"], "กรุงโรม"),
        ("프랑스의 수도는", ["프랑스에서 정부가 있는 곳은"], "프랑스"),
        # names, where nothing is shared
        ("The capital of France is", [], "France"),
        ("The capital of France is", ["Its seat of government:"], "France"),
        ("France's capital is", [], "France"),
        ("Toyota was founded in", [], "Toyota"),
        ("The city where visitors can see the Statue of Liberty is", [], "Statue of Liberty"),
        ("The Eiffel Tower is in", [], "The Eiffel Tower"),
        ("In Spain, the language spoken is", [], "Spain"),
        ("The mother of Anna-Maria O'Brien was", [], "Anna-Maria O'Brien"),
        ("Who is the author of “A sense of where you are”?", [], "A sense of where you are"),
        ("La capitale de la France est", [], "France"),
        # content words, where there are no names
        ("the capital of france is", [], "france"),
        ("In biology, animals such as the eagle are called", [], "eagle"),
        ("octane's domain of activity is", [], "octane"),
        ("cheap steel, a product developed by", [], "cheap steel"),
    ],
)
def test_the_subject_is_found(prompt, rephrased, subject):
    start, end = find_subject(prompt, rephrased)
    assert prompt[start:end] == subject


@pytest.mark.parametrize(
    ("prompt", "rephrased", "why"),
    [
        ("Who is it", [], "none of its words is likelier"),
        ("?!", [], "none of its words is likelier"),
        ("Paris, Paris is in", [], "none of its words is likelier"),
        ("who wrote it?", [], "none of its words is likelier"),
        (
            "It is said that Paris met Tokyo in",
            ["When Tokyo was met by Paris"],
            "'Paris' and 'Tokyo', which are equally long",
        ),
        ("the piano, with the viola, is in", ["the viola, with the piano, is"], "'piano' and 'viola'.*equally long"),
        ("日本の首都はどこですか", ["日本の首都を教えて"], "'日本の首都', which may be more than the subject"),
        ("日本の首都は", [], "script does not tell"),
        ("东京在", ["京都是"], "script does not tell"),  # they share a letter
        ("프랑스의 수도는", [], "script does not tell"),
        ("عاصمة فرنسا هي", [], "script does not tell"),
    ],
)
def test_what_cannot_be_known_is_refused(prompt, rephrased, why):
    with pytest.raises(UnknownSubjectError, match=why):
        find_subject(prompt, rephrased)


PIECES = st.sampled_from([
    "the", "The", "of", "in", "is", "France", "Lyon's", "O'Brien", "Art", "Artist", "'s", "(1)", ",", ".", "?", '"',
    "-", "1984", "日本", "の", "は", "프랑스", "프랑스의", "रोम", "été", "É",
])  # fmt: skip
TEXTS = st.one_of(st.lists(PIECES, min_size=1, max_size=9).map(" ".join), st.text(min_size=1, max_size=20))


@settings(deadline=None, max_examples=200)
@given(TEXTS.filter(lambda text: text.strip() and "{}" not in text), st.lists(TEXTS.filter(str.strip), max_size=2))
def test_a_found_subject_is_as_good_as_a_given_one(prompt, rephrased):
    try:
        fact = Fact(prompt, None, "x", rephrase_prompts=rephrased)
    except FactError:
        return
    assert fact.prompt.count("{}") == 1
    assert fact.prompt.replace("{}", fact.subject) == fact.text == prompt
    record = {"prompt": prompt, "subject": fact.subject, "target_new": "x", "rephrase_prompts": rephrased}
    assert Fact.from_record({**record, "separator": None}) == fact  # which is there once, as a whole word
