"""The texts of `glue-mini` and its LoRA experts, made again."""
