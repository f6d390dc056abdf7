"""Memory in weights for applications of language models.

Conversation history and bios are trained into a small temporary LoRA (Temp-LoRA,
arXiv 2401.11504) that belongs to one memory id and can be thrown away. Importing this package
loads neither torch nor a model; each name loads its own module when it is first asked for.
"""

from typing import TYPE_CHECKING

from templora_memory._lazy import lazy_names
from templora_memory._version import __version__

if TYPE_CHECKING:
    from templora_memory import errors
    from templora_memory.domain.manifest import ModelIdentity, Revision
    from templora_memory.domain.messages import Document, Message
    from templora_memory.domain.results import (
        AbsorbProgress,
        AbsorbReport,
        Covered,
        ForgetReceipt,
        Passage,
        Probe,
        RecallChange,
        RemovalReceipt,
        Reply,
        Status,
        StoredText,
        TextPage,
        Transcript,
    )
    from templora_memory.domain.settings import (
        Learning,
        Policy,
        ResolvedLearning,
        ResolvedPolicy,
        Sampling,
    )
    from templora_memory.errors import TemploraError
    from templora_memory.service.admission import Check
    from templora_memory.service.answering import ReplyOptions
    from templora_memory.service.jobs import Job
    from templora_memory.service.long_text import GenerateOptions
    from templora_memory.service.memory import Memory, WithoutMemory
    from templora_memory.service.parametric_memory import ParametricMemory
    from templora_memory.service.recording import AbsorbInput
    from templora_memory.service.streams import ReplyStream, TextStream

__all__ = [
    "AbsorbInput",
    "AbsorbProgress",
    "AbsorbReport",
    "Check",
    "Covered",
    "Document",
    "ForgetReceipt",
    "GenerateOptions",
    "Job",
    "Learning",
    "Memory",
    "Message",
    "ModelIdentity",
    "ParametricMemory",
    "Passage",
    "Policy",
    "Probe",
    "RecallChange",
    "RemovalReceipt",
    "Reply",
    "ReplyOptions",
    "ReplyStream",
    "ResolvedLearning",
    "ResolvedPolicy",
    "Revision",
    "Sampling",
    "Status",
    "StoredText",
    "TemploraError",
    "TextPage",
    "TextStream",
    "Transcript",
    "WithoutMemory",
    "__version__",
    "errors",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "errors": "",
        "ModelIdentity": "domain.manifest",
        "Revision": "domain.manifest",
        "Document": "domain.messages",
        "Message": "domain.messages",
        "AbsorbProgress": "domain.results",
        "AbsorbReport": "domain.results",
        "Covered": "domain.results",
        "ForgetReceipt": "domain.results",
        "Passage": "domain.results",
        "Probe": "domain.results",
        "RecallChange": "domain.results",
        "RemovalReceipt": "domain.results",
        "Reply": "domain.results",
        "Status": "domain.results",
        "StoredText": "domain.results",
        "TextPage": "domain.results",
        "Transcript": "domain.results",
        "Learning": "domain.settings",
        "Policy": "domain.settings",
        "ResolvedLearning": "domain.settings",
        "ResolvedPolicy": "domain.settings",
        "Sampling": "domain.settings",
        "TemploraError": "errors",
        "Check": "service.admission",
        "ReplyOptions": "service.answering",
        "Job": "service.jobs",
        "GenerateOptions": "service.long_text",
        "Memory": "service.memory",
        "WithoutMemory": "service.memory",
        "ParametricMemory": "service.parametric_memory",
        "AbsorbInput": "service.recording",
        "ReplyStream": "service.streams",
        "TextStream": "service.streams",
    },
)
