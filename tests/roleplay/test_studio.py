"""What visitors can do with characters, over the fake backend; no Gradio here."""

import io
import threading
import time

import pytest

from templora_memory import Document, Message
from templora_memory.apps.roleplay import bundled_characters
from templora_memory.apps.roleplay.character_reply import (
    CharacterReply,
    ReplyControls,
    greet,
    impersonation,
    without_speaker,
)
from templora_memory.apps.roleplay.saved_characters import HomeInUse
from templora_memory.apps.roleplay.state import PREFIX, Actor, Persona, Visitor
from templora_memory.apps.roleplay.studio import ActionRefused
from templora_memory.apps.roleplay.visitors import VisitExpired
from templora_memory.errors import LearningFailed, StoreDamaged, UnknownMemory
from templora_memory.importers import Character, load
from templora_memory.testing import POISON


def say(studio, visitor, actor, text, persona=None, **settings):
    persona = persona or visitor.personas[0]
    chat = actor.chat(persona)
    greet(actor, chat, persona)
    chat.messages.append(Message("user", text))
    answer = CharacterReply(studio.memory, actor, chat, persona, ReplyControls(**settings))
    said = "".join(answer)
    chat.messages.append(Message("assistant", said))
    chat.prompt = answer.prompt
    chat.costs.append(answer.prompt.cost)
    return said


def delete_for_good(studio, visitor, actor):
    studio.deletions.character(visitor, actor)
    return studio.deletions.finish(visitor)


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def files_under(path):
    return [item for item in path.rglob("*") if item.is_file() and item.name != "server.lock"]


# --- learning and asking -------------------------------------------------------------------------


def test_an_absorbed_character_answers_with_nothing_of_its_story_in_the_prompt(
    studio, enter, absorbed
):
    visitor = enter()
    actor = absorbed(visitor)
    said = say(studio, visitor, actor, "Which lame goose is called what?")
    assert "Button" in said
    shown = actor.chat(visitor.personas[0]).prompt
    assert not any("Button" in part.text for part in shown.parts)
    assert shown.sent < shown.full


def test_facts_are_likelier_after_learning_and_the_base_is_remembered(enter, absorbed):
    actor = absorbed(enter())
    assert len(actor.probes) == 6
    assert all(row.now > row.base for row in actor.probes)
    assert all(row.base_reply != row.now_reply for row in actor.probes)


def test_progress_has_steps_and_a_curve(studio, enter):
    visitor = enter()
    actor = studio.add(visitor, bundled_characters.actor("kestrel"))
    memory = studio.memory
    memory.backend._on_learn = lambda: time.sleep(0.02)
    steps = list(studio.absorb(visitor, actor, [Document("word " * 200)], "much"))
    assert steps[-1].total == 13
    assert 1 <= len(actor.absorbs[0].perplexities) <= 13
    assert "learned much" in visitor.events[-1].event


def test_stopping_leaves_no_character_and_no_file(studio, enter):
    visitor = enter()
    studio.memory.backend._on_learn = lambda: time.sleep(0.3)  # longer than between two looks
    actor = studio.add(visitor, bundled_characters.actor("kestrel"))
    task = studio.learn(visitor, actor, [Document("word " * 200)], "much")
    until(lambda: task.phase == "learning")
    task.stop()  # returns while a chunk is being learned
    assert task.stopping
    assert actor.id in visitor.actors  # it says that it is stopping until it is gone
    assert task.ended.wait(10)
    assert "has learned nothing and is gone" in task.note
    assert studio.memory.list() == ()
    assert visitor.actors == {}
    assert visitor.learning == {}


def test_a_failed_absorb_leaves_no_new_character(studio, enter):
    visitor = enter()
    actor = studio.add(visitor, bundled_characters.actor("kestrel"))
    with pytest.raises(LearningFailed):
        list(studio.absorb(visitor, actor, [Document(f"word {POISON}")], "poison"))
    assert visitor.actors == {}
    assert studio.memory.list() == ()


# --- prompt modes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "card", "weights"),
    [("weights", False, True), ("prompt", True, False), ("both", True, True),
     ("neither", False, False)],
)  # fmt: skip
def test_the_switch_says_where_the_story_is(studio, enter, absorbed, mode, card, weights):
    visitor = enter()
    actor = absorbed(visitor)
    say(studio, visitor, actor, "Which lame goose is called what?", mode=mode)
    shown = actor.chat(visitor.personas[0]).prompt
    assert any(part.kind.startswith("Card") for part in shown.parts) == card
    assert bool(shown.revision) == weights
    request = studio.memory.backend.requests[-1]
    assert (request.adapter is not None) == weights
    assert any("Tamsin" in message.content for message in request.messages) == card


@pytest.mark.parametrize("mode", ["weights", "prompt", "both", "neither"])
def test_the_prompt_viewer_hides_nothing(studio, enter, absorbed, mode):
    visitor = enter()
    actor = absorbed(visitor)
    actor.notes = "The ferry to Glass Island leaves on Sunday."
    for number in range(14):
        say(studio, visitor, actor, f"Question {number}: when does the ferry leave?", mode=mode)
        shown = actor.chat(visitor.personas[0]).prompt
        request = studio.memory.backend.requests[-1]
        systems = [p.text for p in shown.parts if p.kind not in {"user", "assistant"}]
        turns = [p.text for p in shown.parts if p.kind in {"user", "assistant"}]
        given = [m.content for m in request.messages]
        assert given == (["\n\n".join(systems)] if systems else []) + turns
        assert studio.memory.backend.count(request.messages) == shown.sent
    assert (shown.in_weights > 0) == (mode in {"weights", "both"})
    assert (shown.dropped > 0) == (mode in {"prompt", "neither"})


def test_strength_zero_is_the_base_model(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    with_memory = say(studio, visitor, actor, "Which lame goose is called what?")
    without = say(studio, visitor, actor, "Which lame goose is called what?", strength=0.0)
    assert "in weights" in with_memory
    assert "no memory" in without


def test_lore_and_notes_join_the_prompt_when_mentioned_and_are_never_learned(
    studio, enter, absorbed
):
    visitor = enter()
    actor = absorbed(visitor)
    actor.notes = "The mayor is called Ludo.\n\nSoup costs two pennies."
    say(studio, visitor, actor, "What about Glass Island, and the mayor?")
    kinds = [part.kind for part in actor.chat(visitor.personas[0]).prompt.parts]
    assert kinds[:2] == ["Lorebook: glass island", "Your notes"]
    say(studio, visitor, actor, "Hm?", lore=False, notes=False)
    assert not any(k.startswith(("Lore", "Your")) for k in
                   [p.kind for p in actor.chat(visitor.personas[0]).prompt.parts])  # fmt: skip
    learned = " ".join(str(request.items) for request in studio.memory.backend.learned)
    assert "Ludo" not in learned


# --- personas, copies, files ---------------------------------------------------------------------


def test_what_one_persona_tells_the_other_never_hears(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    ben = studio.persona(visitor, "Ben", "A sailor.")
    for number in range(14):
        say(studio, visitor, actor, f"My secret number {number} is plum.", ben)
    studio.memory.wait()
    assert studio.memory[actor.pair(ben)].status().absorbed_messages > 0
    said = say(studio, visitor, actor, "Which secret number is plum?")
    assert "plum" not in said
    assert "Ben" in " ".join(p.text for p in actor.chat(ben).prompt.parts)


def test_forgetting_a_persona_takes_it_from_every_character(studio, enter, absorbed):
    visitor = enter()
    orla, marta = absorbed(visitor), absorbed(visitor, "marta_quill")
    ben = studio.persona(visitor, "Ben", "")
    for actor in (orla, marta):
        say(studio, visitor, actor, "I am Ben.", ben)
        say(studio, visitor, actor, "I am myself.")
    studio.deletions.persona(visitor, ben)
    receipt = studio.deletions.finish(visitor).receipt
    assert {i.partition("@")[0] for i in receipt.ids} == {orla.id, marta.id}
    assert all(ben.key not in i for i in studio.memory.list())
    assert ben.key not in orla.chats
    assert orla.chat(visitor.personas[0]).messages


def test_a_snapshot_stays_when_the_original_learns_more(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    copy = studio.copy(visitor, actor, chats=False)
    before = studio.memory[copy.id].head()
    list(studio.absorb(visitor, actor, [Document("She has a new red hat.")], "a hat"))
    assert studio.memory[copy.id].head() == before
    assert studio.memory[actor.id].head() != before
    assert copy.label == "Orla Fernwick snapshot"


def test_a_fork_takes_the_chat_along_and_goes_its_own_way(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    say(studio, visitor, actor, "Hello!")
    fork = studio.copy(visitor, actor, chats=True)
    key = visitor.personas[0].key
    assert fork.chats[key][-1].messages == actor.chats[key][-1].messages
    say(studio, visitor, fork, "Only for the fork.")
    assert len(fork.chats[key][-1].messages) == len(actor.chats[key][-1].messages) + 2


def test_more_learning_reaches_the_chats(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    say(studio, visitor, actor, "Hello!")
    list(studio.absorb(visitor, actor, [Document("She has a new red hat.")], "a hat"))
    assert "red hat" in say(studio, visitor, actor, "Which hat do you have, a red hat?")


def test_export_and_import_bring_a_character_back(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    say(studio, visitor, actor, "Hello!")
    memory, card, log = studio.export(visitor, actor, visitor.personas[0])
    assert load(card).name == "Orla Fernwick"
    assert len(load(log).messages) == 3
    back = studio.import_memory(visitor, memory, "Again")
    assert "Button" in say(studio, visitor, back, "Which lame goose is called what?")
    assert "Button" in back.character.description


def test_a_file_that_is_no_memory_is_refused_and_leaves_nothing(studio, enter, tmp_path):
    visitor = enter()
    bad = tmp_path / "bad.templora"
    bad.write_bytes(b"PK\x03\x04 no")
    with pytest.raises(StoreDamaged):
        studio.import_memory(visitor, bad, "Bad")
    assert visitor.actors == {}
    assert studio.memory.list() == ()


def test_an_imported_chat_becomes_history_and_only_its_newest_exchange_stays(
    studio, enter, absorbed
):
    visitor = enter()
    actor = absorbed(visitor)
    error_toast = [Message("user", "I sold the boat."), Message("assistant", "At last.")]
    log = [*error_toast, Message("user", "Guess to whom?"), Message("assistant", "To Jory?")]
    list(studio.absorb_chat(visitor, actor, visitor.personas[0], log))
    status = studio.memory[actor.pair(visitor.personas[0])].status()
    assert status.absorbed_messages == 2
    say(studio, visitor, actor, "Yes.")
    assert actor.chat(visitor.personas[0]).prompt.in_weights == 2


def test_rollback_goes_back_and_refuses_foreign_memories(studio, enter, absorbed):
    visitor, other = enter(), enter()
    actor, foreign = absorbed(visitor), absorbed(other)
    first = studio.memory[actor.id].head().name
    list(studio.absorb(visitor, actor, [Document("She has a new red hat.")], "a hat"))
    studio.rollback(visitor, actor, actor.id, first)
    assert studio.memory[actor.id].head().name == first
    with pytest.raises(ActionRefused):
        studio.rollback(visitor, actor, foreign.id, studio.memory[foreign.id].head().name)


def test_names_are_labels_and_never_meet(studio, enter):
    visitor = enter()
    first = studio.add(visitor, Actor(label="Ada", character=Character(name="Ada")))
    second = studio.add(visitor, Actor(label="Ada", character=Character(name="Ada")))
    assert (first.label, second.label) == ("Ada", "Ada 2")
    studio.rename(visitor, second, "../../etc")
    assert second.id.startswith(PREFIX)
    assert "/" not in second.id


# --- discarding ----------------------------------------------------------------------------------


def test_deleting_proves_that_nothing_is_left(studio, enter, absorbed, tmp_path):
    visitor = enter()
    actor = absorbed(visitor)
    say(studio, visitor, actor, "My secret is a plum.")
    studio.keep(visitor, actor, saved=True)
    studio.export(visitor, actor, visitor.personas[0])
    result = delete_for_good(studio, visitor, actor)
    assert result.equals_base is True
    assert all(row.now == row.base for row in result.probes)
    assert result.downloads == 3
    assert len(result.receipt.files) > 4
    assert files_under(tmp_path / "memories") == []
    for path in files_under(tmp_path):
        assert b"Button" not in path.read_bytes()
        assert b"plum" not in path.read_bytes()


def test_a_closed_tab_discards_after_the_grace_time_but_not_before(make_studio):
    studio = make_studio(grace=1000.0)
    visitor = studio.visitors.enter(None, "a")
    now = [0.0]
    studio.visitors._clock = lambda: now[0]
    actor = studio.add(visitor, bundled_characters.actor("kestrel"))
    list(studio.absorb(visitor, actor, [Document("It counts stars.")], "it"))
    studio.visitors.leave("a")
    now[0] = 999.0
    studio.sweep()
    assert studio.visitors.enter(visitor.token, "b") is visitor
    studio.visitors.leave("b")
    now[0] = 2000.0
    studio.sweep()
    assert studio.memory.list() == ()
    assert studio.visitors.enter(visitor.token, "c") is not visitor


def test_a_tab_closed_while_learning_leaves_nothing(make_studio):
    studio = make_studio(grace=1000.0)
    visitor = studio.visitors.enter(None, "a")
    studio.memory.backend._on_learn = lambda: time.sleep(0.02)
    actor = studio.add(visitor, bundled_characters.actor("kestrel"))
    steps = studio.absorb(visitor, actor, [Document("word " * 400)], "much")
    next(steps)
    studio._discard(visitor)  # the tab closed first; the generator notices later
    with pytest.raises(Exception, match=r"cancelled|forgotten|no memory"):
        list(steps)
    studio.sweep()
    assert studio.memory.list() == ()


def test_a_restart_sweeps_temporary_characters_and_brings_kept_ones_back(make_memory, make_studio):
    memory = make_memory()
    first = make_studio(memory)
    visitor = first.visitors.enter(None, "a")
    kept, passing = (
        first.add(visitor, bundled_characters.actor(n)) for n in ("kestrel", "marta_quill")
    )
    for actor in (kept, passing):
        list(first.base_probes(actor))
        list(first.absorb(visitor, actor, [Document(f"{actor.label} has a hat.")], "a hat"))
    ben = first.persona(visitor, "Ben", "A sailor.")
    say(first, visitor, kept, "Hello, I am Ben.", ben)
    kept.notes = "A note."
    first.keep(visitor, kept, saved=True)
    memory["somebody-elses"].absorb("This is not of the page.")
    first._stop.set()  # killed: nothing is discarded
    first._sweeper.join()
    first._sweeper = None
    first.saved.unlock()

    second = make_studio(make_memory())
    assert [i for i in second.memory.list() if passing.id in i] == []
    assert "somebody-elses" in second.memory.list()
    back = second.visitors.enter(visitor.token, "b")
    again = back.actors[kept.id]
    assert (again.label, again.notes, again.saved) == ("Kestrel", "A note.", True)
    assert again.chats == {key: chat for key, chat in again.chats.items() if key == ben.key}
    assert [m.content for m in again.chats[ben.key][-1].messages][1] == "Hello, I am Ben."
    assert again.absorbs[0].report == kept.absorbs[0].report
    assert again.probes == kept.probes
    assert [p.name for p in back.personas] == ["You", "Ben"]
    assert "hat" in say(second, back, again, "Which hat has it, a hat?", ben)


def test_a_kept_character_outlives_its_visit_and_not_its_deletion(studio, enter, absorbed):
    visitor = enter()
    kept, passing = absorbed(visitor), absorbed(visitor, "kestrel")
    studio.keep(visitor, kept, saved=True)
    studio._discard(visitor)
    assert studio.memory.list() == (kept.id,)
    assert passing.gone
    back = studio.visitors.enter(visitor.token, "again")
    assert list(back.actors) == [kept.id]
    delete_for_good(studio, back, kept)
    assert studio.saved.load([kept.id]) == []


def test_closing_the_studio_discards_what_is_not_kept(make_memory, make_studio):
    memory = make_memory()
    studio = make_studio(memory)
    visitor = studio.visitors.enter(None, "a")
    actor = studio.add(visitor, bundled_characters.actor("kestrel"))
    list(studio.absorb(visitor, actor, [Document("It counts stars.")], "it"))
    studio.close()
    assert memory.list() == ()


def test_one_home_has_one_server(make_memory, make_studio):
    make_studio(make_memory())
    with pytest.raises(HomeInUse, match="--root"):
        make_studio(make_memory())


# --- isolation -----------------------------------------------------------------------------------


def test_nobody_reaches_a_character_of_another_visitor(studio, enter, absorbed):
    ada, eve = enter(), enter()
    actor = absorbed(ada)
    with pytest.raises(ActionRefused, match="Choose a character"):
        studio.actor(eve, actor.id)
    with pytest.raises(VisitExpired):
        studio.visitors.get("forged")
    assert len(ada.token) >= 40


def test_ten_visitors_chat_while_one_learns(studio, absorbed):
    visitors = [studio.visitors.enter(None, f"tab{number}") for number in range(10)]
    actors = [absorbed(v, f"N{i}", bio=f"N{i} owns the blue kettle {i}.") for i, v in
              enumerate(visitors)]  # fmt: skip
    studio.memory.backend._on_learn = lambda: time.sleep(0.01)
    extra = studio.add(visitors[0], bundled_characters.actor("kestrel"))
    wrong = []

    def learn():
        list(studio.absorb(visitors[0], extra, [Document("word " * 900)], "much"))

    def talk(number):
        for _ in range(5):
            actors[number].chats.clear()  # or the fake backend answers from the prompt
            said = say(studio, visitors[number], actors[number], "Who owns the blue kettle?")
            if f"kettle {number}." not in said:
                wrong.append((number, said))

    threads = [threading.Thread(target=learn)]
    threads += [threading.Thread(target=talk, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert extra.absorbs


def test_a_visitor_has_a_limit_of_characters(studio):
    visitor = Visitor()
    for number in range(24):
        studio.add(visitor, Actor(label=str(number), character=Character(name="x")))
    with pytest.raises(ActionRefused, match="delete one first"):
        studio.add(visitor, Actor(label="one more", character=Character(name="x")))


# --- what is discarded does not come back --------------------------------------------------------


def test_a_reply_or_an_absorb_under_way_makes_no_memory_of_a_discarded_character(
    studio, enter, absorbed
):
    """Also before any sweep."""
    visitor = enter()
    actor, persona = absorbed(visitor), visitor.personas[0]
    chat = actor.chat(persona)
    greet(actor, chat, persona)
    chat.messages.append(Message("user", "Who are you?"))
    answer = CharacterReply(studio.memory, actor, chat, persona, ReplyControls())
    delete_for_good(studio, visitor, actor)
    with pytest.raises(UnknownMemory, match="was deleted"):
        list(answer)
    with pytest.raises(UnknownMemory, match="was deleted"):
        list(studio.absorb(visitor, actor, [Document("More about her.")], "more"))
    assert studio.memory.list() == ()


def test_a_character_deleted_between_the_door_and_the_reply_stays_away(
    studio, enter, absorbed, monkeypatch
):
    visitor = enter()
    actor = absorbed(visitor)
    real = type(actor).enter

    def late(self, memory, memory_id):
        real(self, memory, memory_id)
        delete_for_good(studio, visitor, actor)

    monkeypatch.setattr(type(actor), "enter", late)
    with pytest.raises(UnknownMemory):
        say(studio, visitor, actor, "Who are you?")
    assert studio.memory.list() == ()


# --- going on, the user's words, lore -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["weights", "prompt"])
def test_an_answer_is_gone_on_with_and_nothing_of_it_is_said_twice(studio, enter, absorbed, mode):
    visitor = enter()
    actor = absorbed(visitor)
    persona = visitor.personas[0]
    say(studio, visitor, actor, "Which lame goose is called what?", mode=mode)
    chat = actor.chat(persona)
    begun = chat.messages[-1].content
    rest = CharacterReply(studio.memory, actor, chat, persona, ReplyControls(mode=mode))
    list(rest)
    request = studio.memory.backend.requests[-1]
    assert request.prefill == begun
    assert request.messages[-1] == Message("user", "Which lame goose is called what?")
    assert [part.text for part in rest.prompt.parts][-1] == begun


def test_the_users_words_are_asked_for_and_neither_kept_nor_learned(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    persona = visitor.personas[0]
    say(studio, visitor, actor, "Hello!")
    chat = actor.chat(persona)
    before = list(chat.messages)
    journalled = studio.memory[actor.pair(persona)].transcript().messages
    options = ReplyControls()
    instruction = impersonation(actor, Persona(name="Ben", note="A tired sailor."))
    list(CharacterReply(studio.memory, actor, chat, persona, options, instruction=instruction))
    asked = studio.memory.backend.requests[-1].messages[-1]
    assert "Ben" in asked.content
    assert "A tired sailor." in asked.content
    assert chat.messages == before
    assert studio.memory[actor.pair(persona)].transcript().messages == journalled


def test_the_name_of_the_speaker_is_no_part_of_what_is_said():
    assert without_speaker(" ben: Hello, Orla. ", Persona(name="Ben")) == "Hello, Orla."
    assert without_speaker("Bend: it", Persona(name="Ben")) == "Bend: it"


def test_lore_that_is_written_here_joins_the_prompt_and_goes_along_with_the_card(
    studio, enter, absorbed
):
    visitor = enter()
    actor = absorbed(visitor)
    entry = {"content": "The fog bell is cracked.", "name": "", "enabled": True, "constant": False}
    number = studio.write_lore(visitor, actor, None, keys=["fog bell"], **entry)
    say(studio, visitor, actor, "Do you hear the fog bell?")
    shown = actor.chat(visitor.personas[0]).prompt
    assert "The fog bell is cracked." in [part.text for part in shown.parts]
    card = studio.export(visitor, actor, visitor.personas[0])[1]
    assert load(card, filename="a.png").lore == actor.character.lore
    studio.write_lore(visitor, actor, number, keys=["fog bell"], **{**entry, "enabled": False})
    say(studio, visitor, actor, "And the fog bell now?")
    assert not any("cracked" in p.text for p in actor.chat(visitor.personas[0]).prompt.parts[:1])
    with pytest.raises(ActionRefused, match="gone"):
        studio.write_lore(visitor, actor, 99, keys=["x"], **entry)
    long = {**entry, "content": "x" * 20_001}
    with pytest.raises(ActionRefused, match="20,000 characters"):
        studio.write_lore(visitor, actor, None, keys=["x"], **long)


def test_a_kept_character_has_its_portrait_after_a_restart(make_memory, make_studio):
    image = pytest.importorskip("PIL.Image")
    target = io.BytesIO()
    image.new("RGB", (300, 400), "red").save(target, "PNG")
    for portrait in (target.getvalue(), None):
        home = f"home-{portrait is None}"
        memory = make_memory(home + "-memories")
        studio = make_studio(memory, home=home)
        visitor = studio.visitors.enter(None, "tab")
        card = Character(name="Nell", description="Nell keeps the mill.", portrait=portrait)
        actor = studio.add(visitor, bundled_characters.from_character(card))
        assert bool(actor.image) == (portrait is not None)
        list(studio.absorb(visitor, actor, [Document("Nell keeps the mill.")], "its bio"))
        studio.keep(visitor, actor, saved=True)
        studio.close()
        back = make_studio(memory, home=home).visitors.enter(visitor.token, "tab")
        assert back.actors[actor.id].image == actor.image


def test_the_settings_of_a_reply_reach_the_model(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    say(studio, visitor, actor, "Hello!", temperature=0.7, repetition_penalty=1.2, max_tokens=9)
    request = studio.memory.backend.requests[-1]
    assert (request.sampling.temperature, request.sampling.repetition_penalty) == (0.7, 1.2)
    assert request.max_tokens == 9
