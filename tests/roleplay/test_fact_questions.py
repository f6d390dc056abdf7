"""Questions for the sentences of a bio: everyday ones, each another one."""

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


def test_names_with_signs_of_patterns_are_only_names():
    assert facts_of_sentences(["A.*(B has a cat called Tom."], "A.*(B", at_most=6)
    assert facts_of_sentences(["Nothing to ask for here at all."], "", at_most=6)
