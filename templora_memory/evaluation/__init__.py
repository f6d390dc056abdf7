"""Measurements that anybody can repeat; what `templora bench` runs."""

from templora_memory.evaluation.perplexity import ChunkScore, PerplexityReport, perplexity, total

__all__ = ["ChunkScore", "PerplexityReport", "perplexity", "total"]
