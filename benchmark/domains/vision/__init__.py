"""Image classification: data sets, CLIP image towers, heads from prompts, top-1 accuracy."""
