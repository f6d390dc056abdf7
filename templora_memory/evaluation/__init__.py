"""Measurements that anybody can repeat; what `templora bench` runs.

`templora_memory.evaluation.speed` is imported by its full name: it loads torch.
"""

from templora_memory.evaluation._answers import Arm, Question
from templora_memory.evaluation.conversation import ConversationReport, Talk, conversation
from templora_memory.evaluation.perplexity import ChunkScore, PerplexityReport, perplexity, total
from templora_memory.evaluation.recall import Person, RecallReport, recall
from templora_memory.evaluation.translation import TranslationReport, translation

__all__ = [
    "Arm",
    "ChunkScore",
    "ConversationReport",
    "PerplexityReport",
    "Person",
    "Question",
    "RecallReport",
    "Talk",
    "TranslationReport",
    "conversation",
    "perplexity",
    "recall",
    "total",
    "translation",
]
