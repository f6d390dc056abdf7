"""The commands. Each one opens the service, calls one verb, and shows what came back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from templora_memory._version import __version__
from templora_memory.cli import _config, _show
from templora_memory.cli._bench import bench
from templora_memory.cli._call import Call, command
from templora_memory.cli._clean import clean
from templora_memory.cli._demo import find_demo
from templora_memory.cli._input import STDIN, read as read_text
from templora_memory.cli._lore import LORE_USES
from templora_memory.cli._model import model
from templora_memory.domain.ids import parse_id
from templora_memory.domain.settings import Sampling
from templora_memory.domain.suggestions import did_you_mean, nearest
from templora_memory.errors import InvalidSetting, InvalidText, StoreDamaged, UnknownMemory

if TYPE_CHECKING:  # not for help
    from templora_memory.domain.messages import Message
    from templora_memory.service.answering import ReplyOptions
    from templora_memory.service.memory import Memory

app = typer.Typer(
    name="templora",
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")
app.add_typer(model, name="model")


New = Annotated[
    bool,
    typer.Option("--new", help="Make the memory even if another one has nearly the same id."),
]
MemoryId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help='Memory id: "ada", or "ada@bob" for ada with bob.',
        autocompletion=_config.complete_id,
    ),
]
Sources = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help='Files, folders or patterns; "-" is standard input.'),
]
Strength = Annotated[float, typer.Option(help="Factor on the memory; 0 is exactly the base model.")]
Temperature = Annotated[float, typer.Option(help="0 takes the most likely token.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens with this probability.")]
Penalty = Annotated[float, typer.Option(help="Over 1 makes tokens less likely to come again.")]
Seed = Annotated[int | None, typer.Option(help="Of the random numbers, for temperatures over 0.")]
Revision = Annotated[
    str, typer.Argument(metavar="REVISION", help="Name of a revision, or its first 8 letters.")
]


TextId = Annotated[
    str,
    typer.Argument(
        metavar="TEXT",
        help="Id of a text, or its first 8 letters (templora texts).",
        autocompletion=_config.complete_text_id,
    ),
]
TextIds = Annotated[
    list[str],
    typer.Argument(
        metavar="TEXT...",
        help="Ids of texts, or their first 8 letters (templora texts).",
        autocompletion=_config.complete_text_id,
    ),
]
Question = Annotated[
    str | None, typer.Option("--question", "-q", help="What to ask before and after.")
]
Answer = Annotated[str | None, typer.Option("--answer", "-a", help="The answer to measure.")]


def _version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"templora {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=lambda value: _version(wanted=value), is_eager=True),
    ] = False,
) -> None:
    """Memory in weights: text is learned into a small LoRA that belongs to one id.

    Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted. An error is one line on standard
    error; with --json also the one document on standard output.
    """
    del version


# --- learning and answering --------------------------------------------------------------------


@command(app)
def absorb(
    call: Call,
    memory_id: MemoryId,
    files: Sources,
    *,
    user: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Who you are in the chats among the files."),
    ] = None,
    character: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Whom the memory plays: in chats, and for texts about them."
        ),
    ] = None,
    source: Annotated[
        str, typer.Option(metavar="LANGUAGE", help="Of translation memories: from which language.")
    ] = "",
    target: Annotated[
        str, typer.Option(metavar="LANGUAGE", help="Of translation memories: into which language.")
    ] = "",
    lore: Annotated[
        str, typer.Option(help=f"What becomes of lorebooks: {', '.join(LORE_USES)}.")
    ] = LORE_USES[0],
    examples: Annotated[bool, typer.Option(help="Learn the example dialogues of cards.")] = True,
    plain: Annotated[
        bool, typer.Option("--text", help="Take every file as plain text, whatever it holds.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would become of the files; learn nothing."),
    ] = False,
    new: New = False,
) -> None:
    """Learn files into a memory: texts, character cards, chats, exports, translation memories.

    What a file is, its content says. A folder stands for the files in it. All files are read and
    checked before anything is learned; what of them is not used is listed. A lorebook is kept for
    recall and not learned, unless --lore learn. What the memory knows already is not learned
    again. Ctrl-C keeps what was committed; call again to go on.

    **Examples**

        templora absorb ada bio.txt
        templora absorb ada card.png chat.jsonl project.tmx --as Sam --dry-run
        templora absorb me conversations.json --as Sam
        templora absorb ada@bob notes/ "*.md" --json
        templora absorb ada - < bio.txt
    """
    from templora_memory.cli._absorb import learn
    from templora_memory.cli._sources import Choices, read_all

    if lore not in LORE_USES:
        raise InvalidSetting(
            f"--lore {lore}: use one of {', '.join(LORE_USES)}.{did_you_mean(lore, LORE_USES)}"
        )
    choices = Choices(
        user=user or "",
        character=character or "",
        source=source,
        target=target,
        lore=lore,
        examples=examples,
        plain=plain,
        ask=None if user or call.json or not sys.stdin.isatty() else _ask_who,
    )
    read = read_all(files, choices)
    paths = [str(path) for path in files]
    rows = [item.as_dict() for item in read]
    if dry_run:
        call.say({"id": memory_id, "dry_run": True, "files": paths, "sources": rows},
                 *_show.sources(read))  # fmt: skip
        return
    _refuse_mistyped(call, memory_id, new=new)
    report, head = learn(call, memory_id, read)
    document = {
        "id": memory_id,
        **report.as_dict(),
        "absorbed_tokens": head.tokens if head else 0,
        "files": paths,
        "sources": rows,
    }
    plain_texts = all(item.kind == "text" and not item.ignored for item in read)
    details = () if plain_texts else _show.sources(read)
    call.say(document, _show.absorbed(memory_id, report, read), *details)


def _refuse_mistyped(call: Call, memory_id: str, *, new: bool) -> None:
    """Refuse to make a memory whose id is nearly that of another one, before a model is loaded.

    Raises:
        UnknownMemory: names the one that may be meant.
    """
    name = str(parse_id(memory_id))
    with call.files() as service:
        ids = service.list()
    similar = None if new or name in ids else nearest(name, ids)
    if similar is not None:
        raise UnknownMemory(
            f"There is no memory {name!r}. Did you mean {similar!r}? --new makes {name!r} anyway."
        )


def _ask_who(path: str, speakers: Sequence[str], guess: str) -> str:
    """Ask which speaker of a chat the user is."""
    question = f"{path}: who are you? ({', '.join(speakers[:12])})"
    return str(typer.prompt(question, default=guess, err=True))


@command(app)
def chat(
    call: Call,
    memory_id: MemoryId,
    *,
    message: Annotated[
        str | None,
        typer.Option(
            "--message", "-m", help='Say this, print the answer, and stop; "-" is standard input.'
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="A system message; sent along, never learned.")
    ] = None,
    no_learn: Annotated[
        bool,
        typer.Option("--no-learn", help="Keep and learn nothing: a new conversation, not kept."),
    ] = False,
    context: Annotated[
        list[str] | None,
        typer.Option(help="Retrieved text for the prompt; never learned. May be repeated."),
    ] = None,
    recall: Annotated[
        int | None,
        typer.Option(
            "--recall",
            metavar="TOKENS",
            help="Room in the prompt for passages of what it learned, found by your words.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer. Default: the policy's.")
    ] = None,
    strength: Strength = 1.0,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    new: New = False,
) -> None:
    """Talk with a memory; the conversation goes on from where it ended.

    In a terminal, /help shows what there is beside talking; Ctrl-C stops an answer, Ctrl-D leaves.
    Elsewhere every line of standard input is a message. What leaves the window is learned; the
    newest exchange never is.

    **Examples**

        templora chat ada
        templora chat ada -m "Where do you live?"
        templora chat ada -m "Where do you live?" --no-learn
        templora chat ada -m - < question.txt
        templora chat ada -m "What does the letter say?" --context "The letter says: come home."
    """
    from templora_memory.cli._chat import TerminalChat, typed_lines
    from templora_memory.service.answering import HEAD

    if call.json and message is None:
        raise InvalidSetting("--json needs a message: -m TEXT.")
    sampling = Sampling(
        temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed
    )
    options: ReplyOptions = {
        "context": tuple(context or ()),
        "sampling": sampling,
        "strength": strength,
        "max_tokens": max_tokens,
        "recall_tokens": recall,
    }
    if no_learn:
        options["revision"] = HEAD
    else:
        _refuse_mistyped(call, memory_id, new=new)
    said = None if message is None else _message(message)
    with call.service() as service:
        memory = service[memory_id] if no_learn else service.open(memory_id)
        history = [] if no_learn else _unanswered_left_out(memory.transcript().messages)
        talk = TerminalChat(
            call,
            memory,
            service.without_memory,
            history=history,
            system=clean(system or ""),
            options=options,
            keeps=not no_learn,
        )
        if said is not None:
            reply = talk.say(said)
            if call.json:
                call.say({"id": memory_id, **reply.as_dict()})
        elif sys.stdin.isatty():
            talk.run(typed_lines())
        else:
            for line in sys.stdin:
                if text := clean(line).strip():
                    talk.say(text)
        if memory_id in service.list():  # it may be forgotten by now
            _catch_up(call, memory)


def _message(given: str) -> str:
    """Return the message of -m.

    Raises:
        InvalidText: it is empty.
    """
    text = clean(_from_stdin(given)).strip()
    if not text:
        raise InvalidText("The message is empty: there is nothing to answer.")
    return text


def _from_stdin(given: str) -> str:
    """Return an argument, or standard input where it is "-"."""
    return read_text(Path(STDIN)) if given == STDIN else given


def _unanswered_left_out(messages: Sequence[Message]) -> list[Message]:
    """Return a question whose answer was interrupted makes way for the next one."""
    answered = list(messages)
    while answered and answered[-1].role != "assistant":
        answered.pop()
    return answered


def _catch_up(call: Call, memory: Memory) -> None:
    """Wait for what is learned in the background; a failure there took no answer away."""
    memory.wait()
    if failure := memory.status().last_error:
        call.warn(f"learning in the background failed, the text is kept: {failure}")


@command(app)
def generate(
    call: Call,
    memory_id: MemoryId,
    prompt: Annotated[
        str, typer.Argument(metavar="[PROMPT]", help='Text to go on from; "-" is standard input.')
    ] = "",
    *,
    tokens: Annotated[int, typer.Option(help="Tokens to write.")] = 256,
    strength: Strength = 1.0,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    repetition_penalty: Penalty = 1.1,
    seed: Seed = None,
    new: New = False,
) -> None:
    """Write text of any length; every finished chunk is learned before the next begins.

    **Examples**

        templora generate novel "Once upon a time" --tokens 2000
        templora generate novel --tokens 500 --temperature 0.8 --seed 1
    """
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        ignore_end=True,
    )
    _refuse_mistyped(call, memory_id, new=new)
    with call.service() as service:
        writing = service[memory_id].generate(
            _from_stdin(prompt), max_tokens=tokens, strength=strength, sampling=sampling
        )
        with writing as stream:
            for piece in stream:
                call.piece(piece)
            call.piece("\n")
            reply = stream.reply
    call.say({"id": memory_id, "prompt": prompt, **reply.as_dict()})


@command(app)
def probe(
    call: Call,
    memory_id: MemoryId,
    question: Annotated[str, typer.Option("--question", "-q", help="What to ask.")],
    answer: Annotated[str, typer.Option("--answer", "-a", help="The answer to measure.")],
    strength: Strength = 1.0,
) -> None:
    """Measure how likely an answer is, with the memory and without it.

    **Examples**

        templora probe ada -q "Where do you live?" -a "I live in Salt Harbour."
    """
    with call.service() as service:
        result = service[memory_id].probe(question, answer, strength=strength)
    document = {"id": memory_id, "question": question, "answer": answer, **result.as_dict()}
    call.say(document, *_show.probed(result))


@command(app)
def rebuild(call: Call, memory_id: MemoryId) -> None:
    """Learn a memory again from its text: after a change of model, preset or damaged files.

    The old revisions stay until the new ones are complete.

    **Examples**

        templora rebuild ada --model Qwen/Qwen3-0.6B
    """
    from templora_memory.cli._progress import follow

    with call.service() as service:
        job = service[memory_id].rebuild(wait=False)
        report = follow(call, job, f"Learning {memory_id} again")
    call.say({"id": memory_id, **report.as_dict()}, _show.absorbed(memory_id, report))


@app.command(
    "demo",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def demo(context: typer.Context) -> None:
    """Role-play with characters that can be discarded, in the browser; --help shows its options."""
    raise typer.Exit(find_demo()(context.args))


@command(app)
def config(
    call: Call,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help=f"{', '.join(_config.NAMES)}; none shows all.")
    ] = "",
    value: Annotated[str | None, typer.Argument(metavar="[VALUE]", help="The new default.")] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Remove NAME from the file.")] = False,
) -> None:
    """Show or change the defaults of --model, --root and --device, which are kept in a file.

    An option that is given goes first, then $TEMPLORA_MODEL and $TEMPLORA_ROOT, then this file. It
    is $TEMPLORA_CONFIG, or config.json in the user's folder of configurations.

    **Examples**

        templora config
        templora config model templora/smollm2
        templora config root ~/memories
        templora config device --unset
    """
    if name:
        _config.check(name)
    if (unset and (value is not None or not name)) or (name and value is None and not unset):
        raise InvalidSetting(f"templora config {name}: give a value, or --unset.")
    values = _config.load()
    if unset:
        values.pop(name, None)
    elif value is not None:
        values[name] = str(Path(value).expanduser().absolute()) if name == "root" else value
    if name:
        _config.save(values)
    rows = {one: values.get(one, "-") for one in _config.NAMES}
    call.say(
        {"file": str(_config.file()), "settings": values},
        _show.pairs({"file": _config.file(), **rows}),
    )


@command(app)
def remove(
    call: Call,
    memory_id: MemoryId,
    ids: TextIds,
    *,
    question: Question = None,
    answer: Answer = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take texts out of a memory for good, and learn the rest again; this cannot be undone.

    Until the rest is learned nothing changes. The receipt tells how likely what was removed was
    before, is now, and is for the base model; with -q and -a also any other answer. Asks first.
    Where nobody can answer (no terminal, or --json) it needs --yes.

    **Examples**

        templora remove ada 5f1c0e9a
        templora remove ada 5f1c0e9a 77d2b340 --yes --json
        templora remove ada 5f1c0e9a -q "What is the code?" -a "The code is 1234."
    """
    from templora_memory.cli._progress import follow

    ask = _asked(question, answer)
    with call.files() as service:
        names = service[memory_id].resolve_texts(ids)
        told = {text.id: text for text in service[memory_id].texts(superseded=True)}
    chosen = [told[name] for name in names]
    if not yes:
        for text in chosen:
            call.warn(_show.shortened(text.text))
        what = "this text" if len(chosen) == 1 else f"these {len(chosen)} texts"
        if not _confirmed(call, f"Remove {what} from {memory_id!r}, for good?", "remove"):
            call.warn("nothing was removed.")
            raise typer.Exit(1)
    with call.service() as service:
        job = service[memory_id].remove(names, ask=ask, wait=False)
        receipt = follow(call, job, f"Learning {memory_id} again")
    call.say({"id": memory_id, **receipt.as_dict()}, *_show.removed(memory_id, receipt))


@command(app)
def correct(
    call: Call,
    memory_id: MemoryId,
    text_id: TextId,
    text: Annotated[
        str, typer.Argument(metavar="NEW", help='What it should have said; "-" is standard input.')
    ],
    *,
    question: Question = None,
    answer: Answer = None,
) -> None:
    """Put another text in the place of one that a memory was told, and learn the rest again.

    Nothing of the old text is left. Its place, speaker, time and id stay.

    **Examples**

        templora correct ada 5f1c0e9a "Ada lives in Leeds."
        templora correct ada 5f1c0e9a - < bio.txt
        templora correct ada 5f1c0e9a "I live in Leeds." -q "Where do you live?" -a "In Leeds."
    """
    from templora_memory.cli._progress import follow

    ask = _asked(question, answer)
    with call.service() as service:
        job = service[memory_id].correct(text_id, clean(_from_stdin(text)), ask=ask, wait=False)
        receipt = follow(call, job, f"Learning {memory_id} again")
    call.say({"id": memory_id, **receipt.as_dict()}, *_show.removed(memory_id, receipt))


def _asked(question: str | None, answer: str | None) -> tuple[tuple[str, str], ...]:
    """Return the question and answer to measure, if they are given.

    Raises:
        InvalidSetting: one is given without the other.
    """
    if question is None and answer is None:
        return ()
    if question is None or answer is None:
        raise InvalidSetting("Give both --question and --answer, or none of the two.")
    return ((question, answer),)


# --- looking, copying, removing: no model is loaded --------------------------------------------


@command(app, "list")
def list_(call: Call) -> None:
    """List all memories. Learned and journalled counts stand as 3/4.

    **Examples**

        templora list
        templora list --root ./memories --json
    """
    statuses, damaged = [], {}
    with call.files() as service:
        for memory_id in service.list():
            try:
                statuses.append(service[memory_id].status())
            except StoreDamaged as error:
                damaged[memory_id] = str(error)
                call.warn(str(error))
    rows = [status.as_dict() for status in statuses]
    rows += [{"id": memory_id, "error": text} for memory_id, text in damaged.items()]
    call.say({"memories": rows}, _show.memories(statuses, damaged))


@command(app)
def search(
    call: Call,
    memory_id: MemoryId,
    words: Annotated[str, typer.Argument(metavar="WORDS", help="What to look for.")],
    limit: Annotated[int, typer.Option(help="Most passages to show.")] = 5,
) -> None:
    """Find what a memory was told, by words, best first.

    **Examples**

        templora search ada "roof bees"
        templora search ada "When did we meet?" --limit 3 --json
    """
    with call.files() as service:
        passages = service[memory_id].search(words, limit=limit)
    document = {"id": memory_id, "passages": [asdict(passage) for passage in passages]}
    call.say(document, *_show.passages(passages))


@command(app)
def texts(
    call: Call,
    memory_id: MemoryId,
    words: Annotated[
        str | None, typer.Argument(metavar="[WORDS]", help="Only texts with these words.")
    ] = None,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Most texts to show.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many to leave out before them.")] = 0,
    superseded: Annotated[
        bool,
        typer.Option("--superseded", help="Show what edits of the conversation left behind, too."),
    ] = False,
) -> None:
    """List what a memory was told, text by text: id, time, speaker, state, beginning.

    A text is learned, waiting to be learned, kept for recall alone, or superseded. Whole texts
    stand in the JSON output.

    **Examples**

        templora texts ada
        templora texts ada "where she lives" --limit 5
        templora texts ada --offset 50 --json
    """
    with call.files() as service:
        page = service[memory_id].texts(words, limit=limit, offset=offset, superseded=superseded)
    document = {
        "id": memory_id,
        "texts": [text.as_dict() for text in page],
        "total": page.total,
        "next_offset": page.next_offset,
    }
    call.say(document, *_show.texts(page))


@command(app)
def pin(
    call: Call,
    memory_id: MemoryId,
    ids: TextIds,
    off: Annotated[bool, typer.Option("--off", help="Take the pins off.")] = False,
) -> None:
    """Keep texts in replay and recall, or with --off no longer.

    **Examples**

        templora pin ada 5f1c0e9a
        templora pin ada 5f1c0e9a --off
    """
    from templora_memory.domain.results import TextPage

    with call.files() as service:
        memory = service[memory_id]
        names = memory.resolve_texts(ids)
        (memory.unpin if off else memory.pin)(names)
        chosen = [text for text in memory.texts(superseded=True) if text.id in names]
    document = {"id": memory_id, "texts": [text.as_dict() for text in chosen]}
    call.say(document, *_show.texts(TextPage(texts=tuple(chosen), offset=0, total=len(chosen))))


@command(app)
def show(
    call: Call,
    memory_id: MemoryId,
    text: Annotated[bool, typer.Option("--text", help="Show what it was told, too.")] = False,
) -> None:
    """Show a memory: its counts, its revisions, and with --text all of its text.

    **Examples**

        templora show ada
        templora show ada --text --json
    """
    with call.files() as service:
        memory = service[memory_id]
        status, revisions = memory.status(), memory.revisions()
        transcript = memory.transcript() if text else None
    document: dict[str, Any] = {
        **status.as_dict(),
        "revisions": [asdict(revision) for revision in revisions],
    }
    shown = [_show.status(status), _show.revisions(revisions, status.head_name)]
    if transcript is None:
        call.say(document, *shown)
        return
    document["text"] = asdict(transcript)
    call.say(document, *shown, _show.transcript(transcript))


@command(app)
def forget(
    call: Call,
    memory_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Memory id; takes ID@... along.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Forget every ...@USER instead.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete memories with everything made from them; this cannot be undone.

    Asks first. Where nobody can answer (no terminal, or --json) it needs --yes.

    **Examples**

        templora forget ada
        templora forget ada@bob --yes
        templora forget --user bob --yes --json
    """
    if (memory_id is None) == (user is None):
        raise InvalidSetting("Give a memory id or --user, one of the two.")
    what = f"memory {memory_id!r} and all it learned" if memory_id else f"all of user {user!r}"
    with call.files() as service:
        if not yes and not _confirmed(call, f"Forget {what}, for good?", "forget"):
            call.warn("nothing was forgotten.")
            raise typer.Exit(1)
        receipt = service[memory_id].forget() if memory_id else service.forget(user=user or "")
    call.say(receipt.as_dict(), *_show.forgotten(receipt))


def _confirmed(call: Call, question: str, verb: str) -> bool:
    if call.json or not sys.stdin.isatty():
        raise InvalidSetting(f"Nobody is here to ask whether to {verb}: add --yes.")
    return typer.confirm(question, err=True)


@command(app)
def fork(
    call: Call,
    memory_id: MemoryId,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Id of the copy.")],
    revision: Annotated[
        str | None, typer.Option(help="Copy it as it was at this revision.")
    ] = None,
) -> None:
    """Copy a memory under another id; from then on the two go their own ways.

    **Examples**

        templora fork ada ada-copy
        templora fork ada earlier --revision 3f9a1c20
    """
    with call.files() as service:
        copy = service[memory_id].fork(target, revision=revision)
        status = copy.status()
    call.say(status.as_dict(), _show.status(status))


@command(app)
def rollback(call: Call, memory_id: MemoryId, revision: Revision) -> None:
    """Make an older revision the newest again; the newer ones are deleted.

    **Examples**

        templora rollback ada 3f9a1c20
    """
    with call.files() as service:
        memory = service[memory_id]
        memory.rollback(revision)
        status, left = memory.status(), memory.revisions()
    document = {**status.as_dict(), "revisions": [asdict(revision) for revision in left]}
    call.say(document, _show.revisions(left, status.head_name))


@command(app)
def export(
    call: Call,
    memory_id: MemoryId,
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="File to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write a memory, its text and its weights, to one file. Forgetting does not reach that file.

    A file that is there already is not touched, unless --force; then it is replaced when the new
    one is complete.

    **Examples**

        templora export ada ada.templora
        templora export ada ada.templora --force
    """
    if not force and (file.exists() or file.is_symlink()):
        raise InvalidSetting(f"{file} exists: give another name, or --force to replace it.")
    with call.files() as service:
        path = service[memory_id].export(file)
    document = {"id": memory_id, "file": str(path), "bytes": path.stat().st_size}
    call.say(document, Text(f"{memory_id} is in {path} ({_show.size(path.stat().st_size)})."))


@command(app, "import")
def import_(
    call: Call,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="An exported memory."),
    ],
    memory_id: Annotated[
        str | None, typer.Option("--as", help="Its new id. Default: the old one.")
    ] = None,
) -> None:
    """Make a memory from an exported file.

    **Examples**

        templora import ada.templora
        templora import ada.templora --as ada-again
    """
    with call.files() as service:
        status = service.import_(file, memory_id).status()
    call.say(status.as_dict(), _show.status(status))
