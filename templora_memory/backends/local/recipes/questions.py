"""Recipes that learn questions and answers about a text instead of the text.

What is trained on matters more than how (SEAL, arXiv 2506.10943; LIFT, 2502.14644; Physics of
Language Models 3.1, 2309.14316): a fact that was only told in one way is hardly found again by a
question. So the model, with the text in its prompt, writes questions to every sentence, and their
answers; then it learns to answer them without the text.

A small model reads better than it asks: with a bio before it, it answers most questions, while the
questions that it writes itself leave much of the bio out. So it is also interviewed: asked what any
character can be asked. What the text says nothing about it makes up; such answers are left out, see
`keep_grounded`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources

import torch
from torch import Tensor

from templora_memory.backends.local.recipes.base import (
    AnswerTokens,
    Example,
    RecipeTools,
    TopKTargets,
    is_statement,
    sentences,
    with_and_without_text,
)
from templora_memory.backends.local.recipes.next_token import (
    continue_,
    needs_extra_passes,
    statements,
)
from templora_memory.domain.messages import Document, Message
from templora_memory.ports import LearnRequest

ASK_ABOUT = (
    "{text}\n\n"
    "Write three questions that this sentence answers, each with a short answer, as lines that "
    "begin with Q: and A:.\n"
    "{sentence}"
)
ASK_PERSON = (
    "{text}\n\n"
    "Write three questions to the person in this sentence, each with that person's short answer, "
    "as lines that begin with Q: and A:.\n"
    "{sentence}"
)
"""What the model is asked for, for every sentence: questions about it, and questions to whoever
speaks or is spoken of in it. The text comes first, so that its keys and values can be shared."""

QUESTION_TOKENS = 160
"""Tokens that three questions and answers may take."""
ANSWER_TOKENS = 40
"""Tokens that an answer in the interview may take."""
PAIRS_PER_EXAMPLE = 8
"""Questions and answers in one example."""
MIN_GAIN = 0.3
"""Least probability that the text adds to a word, for the word to come from the text."""
TEACHER_TOP_K = 64
"""K, tokens of the teacher's distribution that are kept at each position."""

_PAIR = re.compile(r"^Q:[ \t]*(?P<ask>\S.*)\n+A:[ \t]*(?P<say>\S.*)$", re.MULTILINE)
_WORD = re.compile(r"\w+")

# --- the recipes -------------------------------------------------------------------------------


def study(request: LearnRequest, tools: RecipeTools) -> Sequence[Example]:
    """Return documents as questions and answers about them, beside what they say.

    Only the answers are learned; questions of one sentence stand in different examples, so that no
    answer can be copied from the one before it. Conversations, models without a chat template, and
    texts of which the model makes no question are learned as `statements` does.
    """
    stated = statements(request, tools)
    asked = [pair for pairs in ask_questions(request, tools).values() for pair in pairs]
    return [*interleave_pairs(asked, tools), *stated]


def auto(request: LearnRequest, tools: RecipeTools) -> Sequence[Example]:
    """Return short documents as `study` does, everything else as `continue_` does."""
    chunks = continue_(request, tools)
    return study(request, tools) if needs_extra_passes(request, chunks) else chunks


def distill(request: LearnRequest, tools: RecipeTools) -> Sequence[Example]:
    """Return the examples of `study`, with a teacher's distribution in place of the bare answers.

    The student, which has no text, learns what the teacher, the same model without the memory but
    with the text in its prompt, holds likely at every token of the answer: not one word, but all
    likely ones (context distillation, arXiv 2112.00861; prompt baking, 2409.13697).
    """
    stated = statements(request, tools)
    pairs: list[tuple[str, str]] = []
    answers: list[AnswerTokens] = []
    for text, asked in ask_questions(request, tools).items():
        for question, answer in asked:
            turn = (Message("user", question), Message("assistant", answer))
            question_tokens = len(tools.tokenizer.dialogue(turn[:1], lead=True).ids)
            both = with_and_without_text(turn, text, tools, question_tokens=question_tokens)
            if both is not None:
                pairs.append((question, answer))
                answers.append(both[0])
    targets = tools.teacher(answers, top_k=TEACHER_TOP_K) if answers else []
    return [*interleave_pairs(pairs, tools, targets), *stated]


# --- questions that the model writes -----------------------------------------------------------


def ask_questions(request: LearnRequest, tools: RecipeTools) -> dict[str, list[tuple[str, str]]]:
    """Return questions about each piece of the documents, with the model's answers.

    Those that it writes itself, and those of an interview; only answers that take something from
    the text.
    """
    if tools.tokenizer.uses_plain_template:
        return {}
    max_prompt = tools.max_length - QUESTION_TOKENS
    asked: dict[str, list[tuple[str, str]]] = {}
    for item in request.items:
        if not isinstance(item, Document):
            continue
        for piece in tools.tokenizer.split(item.text, max(1, max_prompt // 2)):
            prompts = [
                prompt
                for prompt in question_prompts(piece)
                if len(tools.tokenizer.prompt(prompt)) <= max_prompt
            ]
            if prompts:
                written = parse_pairs(tools.generate(prompts, max_tokens=QUESTION_TOKENS))
                pairs = dict.fromkeys([*written, *answer_interview(piece, tools)])
                asked[piece] = keep_grounded(list(pairs), piece, tools)
    return asked


def question_prompts(text: str) -> list[tuple[Message, ...]]:
    """Return the prompts for a text: two for every sentence that states something."""
    return [
        (Message("user", form.format(text=text, sentence=sentence)),)
        for sentence in filter(is_statement, sentences(text))
        for form in (ASK_ABOUT, ASK_PERSON)
    ]


def parse_pairs(written: Sequence[str]) -> list[tuple[str, str]]:
    """Return questions and answers in what the model wrote, each once; the rest is left out."""
    pairs = (
        (match["ask"].strip(), match["say"].strip())
        for text in written
        for match in _PAIR.finditer(text)
    )
    return list(dict.fromkeys(pairs))


def interleave_pairs(
    asked: Sequence[tuple[str, str]], tools: RecipeTools, targets: Sequence[TopKTargets] = ()
) -> list[Example]:
    """Return examples of some pairs each, dealt like cards, so that neighbours are far apart.

    Args:
        asked: questions and answers.
        tools: for their tokens.
        targets: what to learn in place of each pair's answer and all that stands before it in the
            assistant's message; none: the answers.
    """
    count = math.ceil(len(asked) / PAIRS_PER_EXAMPLE)
    return [
        _pairs_example(asked[start::count], tools, targets[start::count] if targets else ())
        for start in range(count)
    ]


def _pairs_example(
    asked: Sequence[tuple[str, str]], tools: RecipeTools, targets: Sequence[TopKTargets]
) -> Example:
    ids: list[int] = []
    weights: list[float] = []
    answers: list[slice] = []
    for question, answer in asked:
        turn = (Message("user", question), Message("assistant", answer))
        tokens = tools.tokenizer.dialogue(turn, lead=not ids)
        question_tokens = len(tools.tokenizer.dialogue(turn[:1], lead=not ids).ids)
        answers.append(slice(len(ids) + question_tokens, len(ids) + len(tokens.ids)))
        ids += tokens.ids
        weights += [0.0] * question_tokens + list(tokens.weights[question_tokens:])
    return Example(
        context=(),
        ids=tuple(ids),
        weights=tuple(weights),
        top_k_targets=scatter_targets(targets, answers, len(ids)) if targets else None,
    )


def scatter_targets(
    targets: Sequence[TopKTargets], positions: Sequence[slice], length: int
) -> TopKTargets:
    """Return targets at some positions of a chunk as one value for the whole chunk [S, K]."""
    top_k = max(part.ids.shape[1] for part in targets)
    ids = torch.zeros((length, top_k), dtype=torch.long)
    p = torch.zeros((length, top_k))
    for at, part in zip(positions, targets, strict=True):
        ids[at, : part.ids.shape[1]], p[at, : part.p.shape[1]] = part.ids, part.p
    return TopKTargets(ids, p)


# --- the interview -----------------------------------------------------------------------------


def interview_questions() -> list[str]:
    """Return questions to a character, written for this package."""
    file = resources.files("templora_memory.backends.local.recipes") / "interview.txt"
    return file.read_text(encoding="utf-8").splitlines()


def answer_interview(text: str, tools: RecipeTools) -> list[tuple[str, str]]:
    """Return the questions of the interview, with the answers that the model gives to them."""
    prompts = [(Message("system", text), Message("user", asked)) for asked in interview_questions()]
    fitting = [
        prompt
        for prompt in prompts
        if len(tools.tokenizer.prompt(prompt)) + ANSWER_TOKENS <= tools.max_length
    ]
    answers = tools.generate(fitting, max_tokens=ANSWER_TOKENS) if fitting else []
    return [
        (question.content, answer.strip())
        for (_, question), answer in zip(fitting, answers, strict=True)
        if answer.strip()
    ]


def keep_grounded(
    asked: Sequence[tuple[str, str]], text: str, tools: RecipeTools
) -> list[tuple[str, str]]:
    """Return those pairs whose answer takes something from the text.

    That is a word which stands in few sentences of the text (so it is not the hero's name) and not
    in the question, and which the model holds far more likely with the text before it.
    """
    with_text: list[AnswerTokens] = []
    without: list[AnswerTokens] = []
    comparable: list[tuple[str, str]] = []
    for question, answer in asked:
        turn = (Message("user", question), Message("assistant", answer))
        # the words alone: what the template opens an answer with is no part of the comparison
        question_tokens = len(tools.tokenizer.prompt(turn[:1]))
        both = with_and_without_text(turn, text, tools, question_tokens=question_tokens)
        if both is not None:
            with_text.append(both[0])
            without.append(both[1])
            comparable.append((question, answer))
    if not comparable:
        return []
    informed = tools.teacher(with_text, top_k=TEACHER_TOP_K)
    guessed = tools.teacher(without, top_k=TEACHER_TOP_K)
    rare = _rare_words(text)
    grounded = []
    for pair, (ids, count), read, guess in zip(comparable, without, informed, guessed, strict=True):
        answer_ids = ids[-count:]
        gains = [
            _probability(read, at, token) - _probability(guess, at, token)
            for at, token in enumerate(answer_ids)
        ]
        if _takes_rare_word(pair, answer_ids, gains, rare, tools):
            grounded.append(pair)
    return grounded


def _rare_words(text: str) -> set[str]:
    """Return words, in lower case, that stand in few of a text's sentences."""
    words = [set(_WORD.findall(sentence.lower())) for sentence in sentences(text)]
    counts = Counter(word for sentence in words for word in sentence)
    return {word for word, count in counts.items() if count <= max(1, len(words) // 4)}


def _takes_rare_word(
    pair: tuple[str, str],
    ids: Sequence[int],
    gains: Sequence[float],
    rare: set[str],
    tools: RecipeTools,
) -> bool:
    """Return True if a rare word of the answer, made of these tokens, became likely by the text."""
    question, answer = pair
    new = rare - set(_WORD.findall(question.lower()))
    matches = [match for match in _WORD.finditer(answer) if match.group().lower() in new]
    if not matches:
        return False
    ends = [len(tools.tokenizer.decode(ids[: number + 1])) for number in range(len(ids))]
    return any(
        gain >= MIN_GAIN and begin < match.end() and end > match.start()
        for match in matches
        for begin, end, gain in zip([0, *ends], ends, gains, strict=False)
    )


def _probability(targets: TopKTargets, at: int, token: int) -> float:
    """Return the probability of a token, 0 where it is not among the likeliest."""
    column: Tensor = (targets.ids[at] == token).nonzero()
    return float(targets.p[at, column[0, 0]]) if len(column) else 0.0
