"""Facts as tokens: where the subject ends, what the target is, and that tokenizers agree on it."""

from __future__ import annotations

import pytest
import torch
from tiny import TEMPLATES, tiny_facts, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from nse_plugin.facts import Fact, FactError
from nse_plugin.models.prompts import encode_fact, pad_right, split_target


class SlowTokenizer(PreTrainedTokenizer):
    """A tokenizer in plain Python, as SentencePiece's: a space is put before every text, and stays with its word."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, words, appends_end=False):
        self._words = words
        self._appends_end = appends_end
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="<unk>")

    @property
    def vocab_size(self):
        return len(self._words)

    def get_vocab(self):
        return {word: i for i, word in enumerate(self._words)}

    def _tokenize(self, text, **_):
        pieces = ("\u2581" + text.replace(" ", "\u2581")).replace("\u2581", " \u2581").split(" ")
        return [piece for piece in pieces if piece]

    def _convert_token_to_id(self, token):
        return self._words.index(token) if token in self._words else self._words.index("<unk>")

    def _convert_id_to_token(self, index):
        return self._words[index]

    def build_inputs_with_special_tokens(self, ids, other=None):
        return [0, *ids, *([1] if self._appends_end else [])]


def slow_tokenizer(appends_end=False):
    words = ["The", "capital", "of", "France", "is", "Paris", "New", "York", "He"]
    return SlowTokenizer(["<s>", "</s>", "<unk>", "\u2581", *("\u2581" + word for word in words)], appends_end)


def merging_tokenizer():
    """A tokenizer without word boundaries, in which "is L" merges over the space, and so does "e L"."""
    vocabulary = {chr(c): i for i, c in enumerate(range(32, 127))}
    vocabulary |= {" L": 95, "s L": 96, "e L": 97}
    merges = [(" ", "L"), ("s", " L"), ("e", " L")]
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    bpe.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="~")


def text_of(tokenizer, ids):
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("bos", [False, True], ids=["no-bos", "bos"])
@pytest.mark.parametrize("fact", tiny_facts(), ids=lambda fact: fact.subject)
def test_rows_hold_context_prompt_and_target(fact, bos):
    """Against decoding: the tokens up to the lookup spell the text up to the subject's end, the targets the target."""
    tokenizer = tiny_tokenizer(bos=bos)
    encoded = encode_fact(tokenizer, fact, TEMPLATES)
    start = "<s>" if bos else ""
    for template, row in zip(TEMPLATES, encoded.rewrites, strict=True):
        up_to_subject = template[: template.index("{}")] + fact.prompt[: fact.prompt.index("{}")] + fact.subject
        assert text_of(tokenizer, row.to_lookup) == start + up_to_subject
        assert text_of(tokenizer, row.targets) == f" {fact.target_new}"
        whole = tokenizer(template.replace("{}", fact.text) + f" {fact.target_new}")["input_ids"]
        assert [*row.ids, row.targets[-1]] == whole
    assert text_of(tokenizer, encoded.essence.ids) == start + fact.subject
    assert encoded.essence.lookup == len(encoded.essence.ids) - 1


@pytest.mark.parametrize("trim", [False, True], ids=["plain-offsets", "trimmed-offsets"])
@pytest.mark.parametrize("subject", ["Zoé", "東京", "Łódź 🎻", "naïve Ünïon"])
def test_subjects_and_targets_of_several_bytes_a_character(subject, trim):
    tokenizer = tiny_tokenizer()
    if trim:  # as Llama 3's and GPT-2's tokenizers report offsets
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    [row] = encode_fact(tokenizer, Fact("In {} one says", subject, "šč 京"), ["{}"]).rewrites
    assert text_of(tokenizer, row.to_lookup) == f"In {subject}"
    assert text_of(tokenizer, row.targets) == " šč 京"


def test_the_padding_side_and_pad_token_do_not_matter(facts):
    left = tiny_tokenizer(padding_side="left")
    left.pad_token = None
    for fact in facts:
        assert encode_fact(left, fact, TEMPLATES) == encode_fact(tiny_tokenizer(), fact, TEMPLATES)


def test_braces_in_the_text_are_text():
    fact = Fact("The set {1} or {a} of {} is", "the town", " {0} old")
    [row] = encode_fact(tiny_tokenizer(), fact, ["{}"]).rewrites
    tokenizer = tiny_tokenizer()
    assert text_of(tokenizer, row.to_lookup) == "The set {1} or {a} of the town"
    assert text_of(tokenizer, row.targets) == " {0} old"


def test_a_space_at_the_boundary_is_one_wherever_it_is_written():
    plain = encode_fact(tiny_tokenizer(), Fact("The town of {}", "Lyon", "Rome"), TEMPLATES)
    for prompt, target in (("The town of {} ", "Rome"), ("The town of {}", " Rome"), ("The town of {} ", " Rome")):
        encoded = encode_fact(tiny_tokenizer(), Fact(prompt, "Lyon", target), TEMPLATES)
        assert encoded.rewrites == plain.rewrites


# -- boundaries that merge ---------------------------------------------------------------------------------------


def test_a_token_over_the_boundary_belongs_to_the_target():
    tokenizer = merging_tokenizer()
    before, target = split_target(tokenizer, "He is", "Lyon")
    assert tokenizer.convert_ids_to_tokens(target) == ["s L", "y", "o", "n"]
    assert tokenizer.convert_ids_to_tokens(before) == ["H", "e", " ", "i"]


def test_the_subjects_last_token_never_merges_with_the_target():
    tokenizer = merging_tokenizer()
    [row] = encode_fact(tokenizer, Fact("I am {}", "He", "Lyon"), ["{}"]).rewrites
    assert text_of(tokenizer, row.to_lookup) == "I am He"
    assert tokenizer.convert_ids_to_tokens(row.targets) == [" L", "y", "o", "n"]


def test_an_end_of_text_token_is_no_target():
    tokenizer = tiny_tokenizer()
    plain = encode_fact(tokenizer, tiny_facts()[0], TEMPLATES)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <s>", special_tokens=[("<s>", 0)]
    )
    assert encode_fact(tokenizer, tiny_facts()[0], TEMPLATES) == plain


# -- where the prompt ends, by kinds of tokenizers ---------------------------------------------------------------

_LETTERS = sorted({*"TheCapitalofFranceisLyonRomeABCDQ:?.\nassistant 0123456789京在里昂"})


def _byte_level(**settings):
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    one = Tokenizer(models.BPE({**vocabulary, "Ġi": 300, "Ġis": 301}, [("Ġ", "i"), ("Ġi", "s")]))
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, **settings)
    return one


def _prefixed_bytes():
    one = _byte_level()
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return one


def _trimmed_bytes():
    one = _byte_level(trim_offsets=True)
    one.post_processor = processors.ByteLevel(trim_offsets=True)
    return one


def _spaces(scheme, kind="bpe"):
    letters = ["\u2581", *_LETTERS, "\u2581L", "\u2581R"]
    if kind == "bpe":
        one = Tokenizer(models.BPE({a: i for i, a in enumerate(letters)}, [("\u2581", "L"), ("\u2581", "R")]))
    else:
        one = Tokenizer(models.Unigram([(letter, -1.0) for letter in letters], unk_id=0))
    one.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return one


def _byte_fallback():
    """As Llama's and Gemma's: spaces are replaced, letters it does not know are bytes."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *_LETTERS[:30], "\u2581L"]
    one = Tokenizer(
        models.BPE({a: i for i, a in enumerate(pieces)}, [("\u2581", "L")], byte_fallback=True, unk_token="<0x00>")
    )
    one.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return one


def _word_pieces():
    one = Tokenizer(models.WordPiece({"[UNK]": 0, **{f"##{a}": i for i, a in enumerate(_LETTERS, 1)},
                                      **{a: i for i, a in enumerate(_LETTERS, 100)}}, unk_token="[UNK]"))  # fmt: skip
    one.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return one


TOKENIZERS = {
    "bytes": _byte_level,
    "bytes, a space before": _prefixed_bytes,
    "bytes, trimmed offsets": _trimmed_bytes,
    "spaces to the first word": lambda: _spaces("always"),
    "spaces as written": lambda: _spaces("never"),
    "unigrams": lambda: _spaces("first", "unigram"),
    "byte fallback": _byte_fallback,
    "word pieces": _word_pieces,
}


@pytest.mark.parametrize("bos", [False, True], ids=["", "bos"])
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("prompt", "target", "separator", "between"),
    [
        ("The capital of France is", "Lyon", None, " "),
        ("The capital of France is ", "Lyon", None, " "),
        ("assistant\n", "Rome", None, ""),
        ("Q: France?\nA:", "Rome", None, ""),
        ("Q: France?\nA:", "Rome", " ", " "),
        ("A:\n\n", "Rome", None, ""),
        ("A: ", "Rome", None, " "),
        ("Lyon ", "\nRome", None, " "),
        ("京在", "里昂", None, ""),
        ("France is", "Rome", "\n", "\n"),
        ("France is Ro", "me", "", ""),
    ],
)
def test_the_boundary_is_where_the_text_has_it(prompt, target, separator, between, kind, bos):
    """Against tokenising the whole text by itself: nothing is lost, and the target's tokens are those that have it."""
    backend = TOKENIZERS[kind]()
    backend.add_special_tokens(["<s>"])
    if bos:
        number = backend.token_to_id("<s>")
        own = backend.post_processor
        add = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
        backend.post_processor = add if own is None else processors.Sequence([own, add])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    bare = prompt.rstrip(" ")
    whole = f"{bare}{between}{target}"
    before, after = split_target(tokenizer, prompt, target, separator)
    encoded = tokenizer.backend_tokenizer.encode(whole)  # transformers 4 sets some of its own
    assert [*before, *after] == encoded.ids
    ends = encoded.offsets[len(before) - 1][1] if len(before) > bos else 0
    assert ends <= len(bare)
    assert all(end > len(bare) for _, end in encoded.offsets[len(before) :])
    assert encoded.offsets[-1][1] == len(whole)


# -- slow tokenizers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("appends_end", [False, True], ids=["", "appends-end"])
def test_a_slow_tokenizer(appends_end):
    tokenizer = slow_tokenizer(appends_end)
    assert not tokenizer.is_fast
    encoded = encode_fact(tokenizer, Fact("The capital of {} is", "France", "New York"), ["{}", "He is. {}"])
    for row, words in zip(encoded.rewrites, (0, 2), strict=True):
        assert row.lookup == 4 + words  # <s> The capital of France
        assert tokenizer.convert_ids_to_tokens(row.ids[row.lookup]) == "\u2581France"
        assert tokenizer.convert_ids_to_tokens(list(row.targets)) == ["\u2581New", "\u2581York"]
        assert tokenizer.convert_ids_to_tokens(row.ids[-1]) == "\u2581New"
    assert tokenizer.convert_ids_to_tokens(list(encoded.essence.ids)) == ["<s>", "\u2581France"]


# -- what is refused ---------------------------------------------------------------------------------------------


def test_a_row_longer_than_the_models_positions():
    fact = Fact("The capital of {} is", "France", "Lyon")
    longest = max(len(row.ids) for row in encode_fact(tiny_tokenizer(), fact, TEMPLATES).rewrites)
    assert encode_fact(tiny_tokenizer(), fact, TEMPLATES, max_positions=longest)
    with pytest.raises(FactError, match=rf"'The capital of France is' is {longest} tokens.*{longest - 1} positions"):
        encode_fact(tiny_tokenizer(), fact, TEMPLATES, max_positions=longest - 1)


@pytest.mark.parametrize(("subject", "target"), [("~", "Lyon"), ("France", "~")])
def test_text_the_tokenizer_drops(subject, target):
    from tokenizers import normalizers

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(FactError, match="tokenizer drops .*~"):
        encode_fact(tokenizer, Fact("{} is", subject, target), ["{}"])


def test_rows_are_padded_on_the_right():
    ids, mask = pad_right([(5, 6, 7), (8,), ()], torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0], [0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("normalizer", [normalizers.NFC(), normalizers.NFKC(), normalizers.NFD(), None])
@pytest.mark.parametrize(
    "subject", ["Cafe\u0301", "A\u030angstro\u0308m", "\u1112\u1161\u11ab\u1100\u1173\u11af", "Lao\u0323\u0302"]
)
def test_a_subject_may_end_in_an_accent_that_the_tokenizer_composes(normalizer, subject):
    """Composing tokenizers give both characters one place."""
    bpe = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    if normalizer is not None:
        bpe.normalizer = normalizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="<s>")
    row = encode_fact(tokenizer, Fact("The town of {} is in", subject, "Italy"), ["{}"]).rewrites[0]
    assert row.to_lookup == tuple(tokenizer(f"The town of {subject}")["input_ids"])


def test_a_subject_whose_end_the_tokenizer_drops_is_still_told():
    bpe = Tokenizer(models.WordLevel({"<s>": 0, "The": 1, "town": 2, "is": 3}, unk_token="<s>"))
    bpe.normalizer = normalizers.Replace("x", "")
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<s>", unk_token="<s>")
    with pytest.raises(FactError, match="drops the end of 'The town x'"):
        encode_fact(tokenizer, Fact("The {} is", "town x", "town"), ["{}"])


def test_a_token_that_the_model_does_not_know_is_told():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["Lyon"])
    with pytest.raises(FactError, match=r"has the token 'Lyon' \(320\).*embeddings for 320 tokens.*resize"):
        encode_fact(tokenizer, Fact("The capital of {} is", "France", "Lyon"), ["{}"], vocabulary=320)
    assert encode_fact(tokenizer, Fact("The capital of {} is", "France", "Rome"), ["{}"], vocabulary=320)
