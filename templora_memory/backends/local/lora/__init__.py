"""LoRA: an adapter as a value, a different one for every row of a batch, and PEFT's files."""
