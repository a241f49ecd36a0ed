"""The families of `llm-small`: experts of a really pretrained language model, and how they were chosen."""

SUITE = "llm-small"
