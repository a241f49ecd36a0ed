"""The family of `llm-small`: LoRA experts of a really pretrained language model, and how they were chosen."""
