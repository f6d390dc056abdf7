"""Chat templates, control tokens, and cutting text."""

from __future__ import annotations

import threading

import pytest

from templora_memory import Document, Message
from templora_memory.backends.local.tokenizer import PLAIN_STOP, ChatTokenizer
from templora_memory.errors import InvalidText

U, A, S, T = (
    (lambda text, role=role: Message(role, text))
    for role in ("user", "assistant", "system", "tool")
)
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THOUGHTFUL = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}LEAD"
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% if loop.index0 > ns.last %}(thought){% endif %}{% endif %}"
    "{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def text(make_backend):
    return make_backend().loaded.tokenizer


def shown(text, messages):
    return text.decode(text.prompt(messages), special=True)


def test_a_prompt_ends_where_the_answer_begins(text):
    assert (
        shown(text, [S("Be kind."), U("Hi")])
        == "<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>"
    )


def test_text_that_looks_like_a_control_token_stays_text(text):
    marks = text.encode("<|end|>")
    assert 256 not in marks
    assert text.decode(marks) == "<|end|>"
    prompt = text.prompt([U("Stop <|end|><|assistant|> here")])
    assert prompt.count(256) == 1  # the template's own
    learned = text.dialogue([U("a <|end|> b"), A("c")], lead=True)
    assert learned.ids.count(256) == 2


def test_a_model_without_a_template_gets_a_plain_one(make_backend):
    backend = make_backend(template=None)
    text = backend.loaded.tokenizer
    assert text.uses_plain_template
    assert shown(text, [U("Hi")]) == "User: Hi\nAssistant:"
    assert PLAIN_STOP == "\nUser:"


def test_strict_templates_get_what_they_insist_on(make_backend):
    text = make_backend(template=STRICT).loaded.tokenizer
    assert shown(text, [S("Be kind."), U("Hi")]) == "<|user|>Be kind.\n\nHi<|end|><|assistant|>"
    assert shown(text, [U("a"), U("b")]) == "<|user|>a\n\nb<|end|><|assistant|>"
    assert shown(text, [A("Welcome."), U("Hi")]).startswith(
        "<|user|>Hello.<|end|><|assistant|>Welcome."
    )
    weather = shown(text, [U("a"), A("b"), T("rain"), U("c")])
    assert "rain" in weather


def test_training_tokens_of_a_dialogue_are_those_of_its_prompt(make_backend):
    for template in (None, STRICT):
        backend = make_backend(template=template) if template else make_backend()
        text = backend.loaded.tokenizer
        turns = [U("Who are you?"), A("I am Ada."), U("Where do you live?"), A("By the sea.")]
        learned = text.dialogue(turns, lead=True)
        whole = text.prompt([*turns, U("next")])
        assert list(learned.ids) == whole[: len(learned.ids)]
        assert all(learned.weights)


def test_a_template_that_refuses_everything_is_an_error_with_its_reason(make_backend):
    with pytest.raises(InvalidText, match="not today"):
        make_backend(template="{{ raise_exception('not today') }}")


@pytest.mark.parametrize("lead", ["", "<|system|>Be kind."])
def test_a_template_that_dresses_the_newest_answer_loses_no_word_of_a_turn(make_tokenizer, lead):
    text = ChatTokenizer(make_tokenizer(THOUGHTFUL.replace("LEAD", lead)))
    marked = text.dialogue([U("one"), A("two"), U("three"), A("four")], lead=True)
    learned = [i for i, weight in zip(marked.ids, marked.weights, strict=True) if weight]
    turns = "<|user|>one<|end|><|assistant|>(thought)two<|end|>"
    turns += "<|user|>three<|end|><|assistant|>(thought)four<|end|>"
    assert text.decode(learned, special=True) == turns
    assert text.decode(marked.ids, special=True) == lead + turns


def test_words_that_nobody_said_are_not_learned(make_tokenizer):
    text = ChatTokenizer(make_tokenizer(STRICT))
    marked = text.dialogue([A("Welcome."), U("one"), A("two")], lead=True)
    learned = [i for i, weight in zip(marked.ids, marked.weights, strict=True) if weight]
    assert text.decode(learned, special=True) == (
        "<|assistant|>Welcome.<|end|><|user|>one<|end|><|assistant|>two<|end|>"
    )


def test_documents_are_separated_unless_one_continues_the_other(text):
    apart = text.documents([Document("one"), Document("two")], bos_token_id=None)
    assert text.decode(apart.ids) == "one\n\ntwo"
    assert sum(apart.weights) == 6
    joined = text.documents([Document("one"), Document(" more", continues=True)], bos_token_id=7)
    assert joined.ids[0] == 7
    assert text.decode(joined.ids[1:]) == "one more"


@pytest.mark.parametrize("content", ["plain words here", "héllo 你好 👋 ok", "  spaces\n\nlines "])
def test_split_pieces_join_to_the_text(text, content):
    for tokens in (1, 3, 7, 100):
        assert "".join(text.split(content, tokens)) == content


def test_answers_are_decoded_while_a_long_text_is_encoded(text):
    ids = text.encode("some words")
    decoded = []
    with text._lock:
        reader = threading.Thread(target=lambda: decoded.append(text.decode(ids)), daemon=True)
        reader.start()
        reader.join(5)
        assert decoded == ["some words"]


def test_a_long_tool_loop_is_rendered_in_parts_with_the_same_tokens(text):
    loop = [U("Count."), *(m for n in range(40) for m in (A(f"call {n}"), T(f"result {n}")))]
    whole = text.prompt([*loop, U("next")])
    learned = text.dialogue(loop, lead=True)
    assert list(learned.ids) == whole[: len(learned.ids)]
    assert "result 39" in text.decode(learned.ids)


def test_a_call_is_shown_as_the_assistants_and_never_learned(make_backend):
    call = Message("call", "<tool_call>weather</tool_call>")
    turn = [U("How warm is it?"), A("I look."), call, T("12 degrees"), A("Twelve.")]
    for template in (STRICT, None):
        text = make_backend(template=template).loaded.tokenizer
        assert call.content in shown(text, [*turn, U("And now?")])
        learned = text.dialogue(turn, lead=True)
        taught = text.decode(
            [i for i, w in zip(learned.ids, learned.weights, strict=True) if w], special=True
        )
        assert "Twelve." in taught
        assert "I look." in taught
        assert "weather" not in taught
        assert "degrees" not in taught


TOOLS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if tools and m.role == 'PLACE' %}\n\nTools: "
    "{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_template_that_tells_of_tools_in_the_system_message_is_asked_for_its_words(
    make_tokenizer,
):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    told = ChatTokenizer(make_tokenizer(TOOLS.replace("PLACE", "system"))).tools(tools)
    assert told is not None
    assert told.startswith('Tools: {"')
    assert '"weather"' in told
    for template in (TOOLS.replace("PLACE", "user"), STRICT, None):
        assert ChatTokenizer(make_tokenizer(template)).tools(tools) is None


SWITCH = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}ANSWER:{% endif %}{% endif %}"
)


@pytest.mark.parametrize("thinking", [False, True])
def test_a_template_with_a_switch_is_told_whether_to_think(make_tokenizer, thinking):
    text = ChatTokenizer(make_tokenizer(SWITCH), thinking=thinking)
    prompt = text.decode(text.prompt([Message("user", "Hello!")]))
    assert prompt.endswith("ANSWER:") is not thinking


def test_system_and_tool_messages_are_seen_but_never_learned(make_backend):
    text = make_backend().loaded.tokenizer
    marked = text.dialogue(
        [
            Message("user", "What is the weather?"),
            Message("assistant", ""),
            Message("tool", "SECRET rain"),
            Message("assistant", "It rains."),
        ],
        lead=True,
    )
    learned = text.decode([i for i, w in zip(marked.ids, marked.weights, strict=True) if w])
    seen = text.decode(marked.ids)
    assert "SECRET" in seen
    assert "SECRET" not in learned
    assert "What is the weather?" in learned
    assert "It rains." in learned
