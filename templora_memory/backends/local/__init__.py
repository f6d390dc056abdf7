"""transformers on this machine, with PEFT's files and a different adapter for every row of a batch.

Notation: these letters stand for the same sizes in every shape in this package, ``[B, S, D]``.

=====  ===========================================================================================
``B``  rows of a batch: one answer, or one memory that learns, in each
``S``  sequence: input tokens of a row in one forward pass
``P``  prefix: tokens before them that enter as stored keys and values
``T``  tokens that count: labelled positions of all rows, one after the other
``L``  decoder layers
``H``  heads of keys and values
``E``  size of one head
``D``  hidden size
``V``  vocabulary
``K``  top-k: the likeliest tokens that a teacher's distribution keeps
``r``  rank of a LoRA
``I``  in_features of a linear layer
``O``  out_features of a linear layer
``N``  numbers in an adapter's flat buffer: the sum of r * (I + O) over its layers
=====  ===========================================================================================

A small letter is the same size of a single row, or of a piece: s input tokens, t labels. A list of
keys and values (`kv_cache.KeyValues`) has L pairs of tensors [B, H, P, E].
"""

from templora_memory.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]
