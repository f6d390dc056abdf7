"""Sentences and words in any script."""

import re
import subprocess
import sys
import time
from unicodedata import normalize

import pytest
from hypothesis import given, strategies as st

from templora_memory.domain.segmentation import (
    MAX_CHARACTERS,
    contains_words,
    content_words,
    is_question,
    is_statement,
    is_unspaced,
    sentences,
    split_at_sentences,
    word_spans,
    words,
)

CUT = {
    "titles": ["Dr. Smith met Mrs. Lee.", "They talked."],
    "initials": ["J. R. R. Tolkien lived in Oxford.", "He wrote."],
    "abbreviations": ["She likes fruit, e.g. pears, i.e. all of it.", "It is sweet."],
    "decimals": ["It costs 3.5 crowns.", "That is much."],
    "addresses": ["See www.example.org/a?b=1 or write.", "Then wait!"],
    "ellipsis": ["I was late...", "Nobody minded."],
    "a quote before who says it": ['"Did you lock the door?" he asked.', '"Yes."', "She left."],
    "asides": ["She left.", "(He stayed here.)", "They met."],
    "emphasis": ["*She smiles.*", '"Hi there."', "*He waves back.*", "They sit."],
    "numbers": ["It is approx. 5 km.", "See vol. 3 for that."],
    "speech at length": [
        "“I was born in Kent, by the sea.",
        "My father was a smith, as his father was before him.",
        "We had bees on the roof, and every summer Dr. Lee came to count them.”",
        "She sighed.",
    ],
    "words that are also abbreviations": ["They talk about me.", "Keep it short."],
    "numbered parts": ["(1) Go home.", "Then wait.", "(2) She knows it.", "Quill does not."],
    "a dash before who says it": ["— Ты запер дверь? — спросила она.", "Он молчал."],
    "lower case": ["i like bees.", "they make honey.", "my name is ada."],
    "single words": ["No.", "Yes!", "Why?"],
    "German": ["Am 3. Mai kam Dr. Weber, z. B. mit dem Zug.", "Im 19. Jahrhundert ging das."],
    "French": ["M. Dupont est là.", "« Bonjour ! Ça va ? »", "Oui."],
    "Spanish": ["El Sr. López llegó.", "¿Cómo estás?", "¡Bien!"],
    "Russian": ["Он жил в г. Москве, т. е. в столице.", "А. С. Пушкин тоже."],
    "Greek": ["Πού είσαι;", "Εδώ είμαι."],
    "Arabic": ["هل تعرف آدا؟", "نعم.", "هي تربي النحل."],
    "Urdu": ["میرا نام آدا ہے۔", "میں یہاں ہوں۔"],
    "Hindi": ["आदा शहद बेचती है।", "क्या आप जानते हैं?", "हाँ॥"],
    "Korean": ["나는 아다입니다.", "벌을 키워요!", "꿀은 3.5kg입니다."],
    "Armenian": ["Ես Ադան եմ։", "Ես այստեղ եմ։"],
    "Amharic": ["ስሜ አዳ ነው።", "ንብ አረባለሁ።"],
}
JOINED = {
    "Chinese": ["艾达养蜜蜂。", "你知道吗？", "太好了！", "“你好。”他说。", "我来了……真的。"],
    "Japanese": ["「行くの？」と彼は言った。", "私は帰った。", "「はい。行きます。」"],
    "Japanese asides": ["彼は笑った（嘘だ。本当は違う。）。", "終わり。"],
    "Hindi without spaces": ["आदा की छत है।", "वह शहद बेचती है॥"],
    "Khmer": ["ខ្ញុំឈ្មោះអាដា។", "ខ្ញុំចិញ្ចឹមឃ្មុំ។"],
    "Burmese": ["ကျွန်မနာမည်အာဒါပါ။", "ပျားမွေးတယ်။"],
}


@pytest.mark.parametrize("name", CUT)
def test_text_with_spaces_is_cut_at_its_sentences(name):
    assert sentences(" ".join(CUT[name])) == CUT[name]


@pytest.mark.parametrize("name", JOINED)
def test_text_without_spaces_is_cut_at_its_sentences(name):
    assert sentences("".join(JOINED[name])) == JOINED[name]


def test_thai_is_cut_at_spaces_into_pieces_of_some_length():
    phrases = ["ฉันชื่ออาดา", "ฉันเลี้ยงผึ้งบนหลังคา", "ฉันชอบน้ำผึ้ง", "ทุกวันฉันตื่นเช้า", "แล้วไปดูผึ้งของฉัน"]
    pieces = sentences(" ".join(phrases))
    assert len(pieces) == 2
    assert " ".join(pieces) == " ".join(phrases)


def test_items_of_a_list_stand_alone():
    assert sentences("1. Wash them. Dry them.\n2. Cut them.\n- salt\n- oil") == [
        "1. Wash them.",
        "Dry them.",
        "2. Cut them.",
        "- salt",
        "- oil",
    ]


def test_lines_of_a_poem_stand_alone():
    poem = ["Shall I compare thee to a summer's day?", "Thou art more lovely and more temperate:"]
    assert sentences("\n".join(poem)) == poem
    assert sentences("床前明月光，\n疑是地上霜。") == ["床前明月光，", "疑是地上霜。"]


def test_fields_of_a_card_stand_alone():
    card = "Name: Ada\nAge: 30\nLikes: bees, tea"
    assert sentences(card) == card.split("\n")


def test_brackets_of_a_card_stand_beside_its_fields():
    assert sentences('[character("Ada")\n{\nAge("25")\nLikes("bees" + "honey")\n}]') == [
        '[character("Ada") {',
        'Age("25")',
        'Likes("bees" + "honey") }]',
    ]


def test_headings_stand_alone_and_drawn_lines_are_left_out():
    text = "# Ada\nShe keeps bees.\n\n---\n\nHistory\n=======\nShe was born."
    assert sentences(text) == ["# Ada", "She keeps bees.", "History", "She was born."]


def test_code_between_fences_is_not_prose():
    code = '```python\nx = 1\n\nprint("a. B. C")\n```'
    assert sentences(f"Look.\n{code}\nAnd now?") == ["Look.", code, "And now?"]


def test_a_paragraph_wrapped_at_a_page_is_one_text_again():
    text = (
        "It was the best of times, it was the worst of times, it was the age of\n"
        "wisdom, it was the age of foolishness, it was the epoch of belief. It\n"
        "was the season of Light."
    )
    assert sentences(text) == [
        text.partition(" It\n")[0].replace("\n", " "),
        "It was the season of Light.",
    ]


def test_a_monster_is_cut_at_clauses():
    monster = "; ".join(f"she has a house number {n}, and a goose" for n in range(40)) + "."
    pieces = sentences(monster)
    assert max(map(len, pieces)) <= MAX_CHARACTERS
    assert all(piece.endswith((";", ".")) for piece in pieces)


def test_a_monster_without_marks_is_cut_anyway():
    assert sentences("ア" * 1000) == ["ア" * 400, "ア" * 400, "ア" * 200]


@pytest.mark.parametrize("text", ["", " \n\t", "..."])
def test_what_is_hardly_a_text_makes_no_trouble(text):
    assert sentences(text) == ([text] if text.strip() else [])


def test_half_a_surrogate_pair_makes_no_trouble():
    assert sentences("\ud800 half. Next.")[1] == "Next."


@given(st.text(alphabet="aB1.!?。！？ \n\"'“”「」()（）:;,-।؟កखのแ\u0301", max_size=300))
def test_nothing_but_white_space_and_drawn_lines_is_lost(text):
    kept = re.sub(r"^[-.:\s]*$", "", text, flags=re.MULTILINE)
    found = re.sub(r"\s", "", "".join(sentences(text)))
    for character in set(re.sub(r"[\s.:\-]", "", kept)):
        assert found.count(character) == text.count(character)


@pytest.mark.parametrize(
    "text", ["Ada met Dr. Lee. " * 30_000, "艾达养蜜蜂。你知道吗？“好。”他说。" * 20_000]
)
def test_half_a_megabyte_takes_seconds_at_most(text):
    begin = time.process_time()
    sentences(text)
    words(text)
    assert time.process_time() - begin < 10


def test_no_model_library_is_imported():
    code = (
        "import sys, templora_memory.domain.segmentation\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "text", ["Who?", 'He said "why?"', "谁？", "من؟", "Πού είσαι;", "「誰？」"]
)
def test_a_question_is_known_by_its_mark(text):
    assert is_question(text)
    assert not is_statement(text)


@pytest.mark.parametrize("text", ["Ada.", "Here;", "艾达。", "आदा।"])
def test_a_statement_has_letters_and_no_question_mark(text):
    assert is_statement(text)


def test_words_are_compared_in_lower_case_and_one_coding():
    assert words("Ada's BEES, Cafe\u0301 ＡＢＣ ﾊﾞﾅﾅ") == [
        "ada",
        "s",
        "bees",
        "café",
        "abc",
        "バナ",
        "ナナ",
    ]


def test_a_vowel_sign_does_not_end_a_word():
    assert words("दिन दान हिन्दी") == ["दिन", "दान", "हिन्दी"]


def test_signs_without_spaces_come_in_pairs():
    assert words("艾达养蜜蜂 abc 3月") == ["艾达", "达养", "养蜜", "蜜蜂", "abc", "3", "月"]
    assert words("ผึ้ง") == ["ผึ้ง"]


def test_a_word_knows_where_it_stands():
    text = "Cafe\u0301 屋根裏"
    assert [text[begin:end] for _, begin, end in word_spans(text)] == ["Cafe\u0301", "屋根", "根裏"]


def test_content_words_leave_small_words_out():
    assert content_words("Ada keeps her bees on the roof.") == ["ada", "keeps", "bees", "roof"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Ada keeps Bees.", "bees"),
        ("艾达养蜜蜂。", "蜜蜂"),
        ("꿀벌을 키운다", "꿀벌"),
        (normalize("NFD", "Ein schöner Tag"), "schöner"),
        ("Ein schöner Tag", normalize("NFD", "schöner")),
        ("It is $5.", "$5"),
    ],
)
def test_whole_words_are_found(text, wanted):
    assert contains_words(text, wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("Beeswax", "bees"), ("at 11", "1"), ("दिनों", "दिन"), ("दिन", "दान"), ("Ada", "")],
)
def test_parts_of_words_are_not_found(text, wanted):
    assert not contains_words(text, wanted)


def test_pieces_joined_are_the_text_and_end_at_sentences():
    text = "艾达养蜜蜂。她住在宁波。" * 30 + "\n\n" + "Ada keeps bees. She has a goose. " * 30
    pieces = split_at_sentences(text, 100)
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 100
    assert all(piece.rstrip().endswith(("。", ".")) for piece in pieces)


def test_pieces_can_be_measured_in_tokens():
    text = "One two three. Four five six. Seven eight nine. Ten eleven twelve."
    pieces = split_at_sentences(text, 7, lambda part: len(part.split()))
    assert "".join(pieces) == text
    assert pieces[0] == "One two three. Four five six. "


@given(st.text(max_size=200), st.integers(1, 40))
def test_pieces_of_any_text_are_the_text_and_fit(text, size):
    pieces = split_at_sentences(text, size, lambda part: len(part.encode("utf-8", "surrogatepass")))
    assert "".join(pieces) == text
    assert all(len(piece) == 1 or len(piece.encode()) <= size for piece in pieces)


def test_little_of_a_long_text_is_measured_for_a_piece():
    measured = []
    split_at_sentences(
        "word " * 4000, 50, lambda part: measured.append(len(part)) or len(part) // 5
    )
    assert max(measured) <= 800


def test_script_without_spaces_is_known():
    assert is_unspaced("艾达养蜜蜂。 Ada")
    assert not is_unspaced("Ada keeps bees. 艾达")
