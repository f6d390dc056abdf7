"""Prompts for retrieval that leave room for what the model remembers.

The stock ones tell the model to say that it does not know whatever the documents lack, so it would
deny what it has in its weights.
"""

PARAMETRIC_CONTEXT_PROMPT = """\
You are talking with a user whom you know from earlier. Use both: the documents below, and what you
remember of the conversation. The documents are right where they and your memory differ.

Documents:

{context_str}

Answer the user's message."""
"""For ``index.as_chat_engine(context_prompt=...)`` and ``ContextChatEngine(context_template=...)``.

Short, because it stands in every prompt."""

PARAMETRIC_REFINE_PROMPT = """\
You are talking with a user whom you know from earlier. More documents were found:

{context_msg}

Answer so far:
{existing_answer}

Improve the answer with these documents and with what you remember of the conversation. If they do
not help, repeat it."""
"""For ``context_refine_prompt=...`` and ``context_refine_template=...``."""
