"""Questions for the sentences of a bio: everyday ones, each another one."""

import pytest

from templora_memory.apps.roleplay.fact_questions import facts_of_sentences

BIO = [
    "Ada Finch lives on the roof of the old bank.",
    "She keeps bees.",
    "Her rival is the wind.",
    "Ada has a red kite called Wisp.",
    "In 1987 she climbed the cathedral tower.",
    "Who knows why?",
    "She hates cold soup.",
]


def test_each_sentence_has_a_question_of_its_own():
    facts = facts_of_sentences(BIO, "Ada", at_most=6)
    assert [(fact.question, fact.answer) for fact in facts] == [
        ("Where do you live?", "the roof of the old bank"),
        ("What do you keep?", "bees"),
        ("Who is your rival?", "the wind"),
        ("What is your red kite called?", "Wisp"),
        ("What can you tell me about cathedral?", ""),
        ("What do you hate?", "cold soup"),
    ]


def test_answers_stand_in_their_sentences():
    assert all(fact.answer in fact.sentence for fact in facts_of_sentences(BIO, "Ada", at_most=6))


def test_other_languages_are_asked_in_their_own_words():
    (german,) = facts_of_sentences(["Lena wohnt in Bremen und das ist gut."], "Lena", at_most=6)
    assert german.question == "Was kannst du mir über Bremen sagen?"
    (japanese,) = facts_of_sentences(
        ["春子は灯台に住んでいます。今日も元気です。"], "春子", at_most=6
    )
    assert japanese.question == "灯台について教えてください。"


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("Ольга живёт в старом маяке.", "Ольга живёт в …", "старом маяке"),
        ("Ola mieszka w starej latarni.", "Ola mieszka w …", "starej latarni"),
        ("Sie ist gerne wach und mag es dunkel.", "Sie ist gerne wach …", "und mag es dunkel"),
        ("تعيش شيرين في منارة قديمة.", "تعيش شيرين في …", "منارة قديمة"),
        ("수진은 낡은 등대에 산다.", "수진은 낡은 …", "등대에 산다"),
        ("李雷住在旧灯塔里。", "李雷住在旧…", "灯塔里"),
        ("សុខារស់នៅក្នុងប៉ម។", "សុខារស់នៅ…", "ក្នុងប៉ម"),
    ],
)
def test_in_any_language_a_sentence_is_asked_for_by_how_it_begins(sentence, question, answer):
    (fact,) = facts_of_sentences([sentence], "", at_most=6)
    assert (fact.question, fact.answer) == (question, answer)
    assert fact.answer in fact.sentence


def test_english_patterns_are_for_english_alone():
    spanish = ["I. keeps una llama.", "La vieja casa de la montaña es de piedra y madera."]
    facts = facts_of_sentences(spanish, "I.", at_most=6)
    assert "What do you keep?" not in {fact.question for fact in facts}


def test_names_with_signs_of_patterns_are_only_names():
    assert facts_of_sentences(["A.*(B has a cat called Tom."], "A.*(B", at_most=6)
    assert facts_of_sentences(["Nothing to ask for here at all."], "", at_most=6)
