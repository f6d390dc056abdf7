"""Measurements that anybody can repeat; what `templora bench` runs.

`templora_memory.evaluation.speed` is imported by its full name: it loads torch.
"""

from templora_memory.evaluation.perplexity import ChunkScore, PerplexityReport, perplexity, total
from templora_memory.evaluation.recall import Person, Question, RecallReport, recall

__all__ = [
    "ChunkScore",
    "PerplexityReport",
    "Person",
    "Question",
    "RecallReport",
    "perplexity",
    "recall",
    "total",
]
