"""What both encrypted stores are tested with: a key, a conversation, and how to look at it."""

from templora_memory import Message, ModelIdentity

BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
TALK = [Message("user", "zanzibar, Füße"), Message("assistant", "two\nlines"), Message("user", "c")]
SECRET = bytes(range(32))
ADAPTER = "adapter_model.safetensors"


def head(store):
    return store.manifest("ada").revisions[-1]


def texts(store, name="ada"):
    journal = store.journal(name)
    return [message.content for message in journal.messages(journal.tip)]
