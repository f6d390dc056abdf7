"""Measurements that anybody can repeat; what `templora bench` runs.

`templora_memory.evaluation.speed` is imported by its full name: it loads torch.
"""

from templora_memory.evaluation._answers import Arm, Question
from templora_memory.evaluation.conversation import ConversationReport, Talk, conversation
from templora_memory.evaluation.cost import CostReport, Shape, Turn, cost
from templora_memory.evaluation.damage import DamageReport, Spoilt, damage
from templora_memory.evaluation.perplexity import (
    ChunkScore,
    PerplexityReport,
    by_length,
    perplexity,
    total,
)
from templora_memory.evaluation.recall import Person, RecallReport, recall
from templora_memory.evaluation.retrieval import RetrievalReport, retrieval
from templora_memory.evaluation.translation import TranslationReport, translation

__all__ = [
    "Arm",
    "ChunkScore",
    "ConversationReport",
    "CostReport",
    "DamageReport",
    "PerplexityReport",
    "Person",
    "Question",
    "RecallReport",
    "RetrievalReport",
    "Shape",
    "Spoilt",
    "Talk",
    "TranslationReport",
    "Turn",
    "by_length",
    "conversation",
    "cost",
    "damage",
    "perplexity",
    "recall",
    "retrieval",
    "total",
    "translation",
]
