"""Names that were mistyped."""

from templora_memory.domain.suggestions import did_you_mean, nearest


def test_the_most_similar_name_is_suggested():
    assert nearest("adda", ["bob", "ada", "adam"]) == "ada"
    assert did_you_mean("learning_rat", ["learning_rate", "r"]) == " Did you mean 'learning_rate'?"


def test_a_name_like_none_is_no_mistake():
    assert nearest("zoe", ["bob", "ada"]) is None
    assert did_you_mean("zoe", []) == ""


def test_numbered_names_are_not_taken_for_each_other():
    assert nearest("npc2", ["npc1", "npc10"]) is None
