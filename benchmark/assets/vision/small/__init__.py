"""The family ``small``: a ViT-S/14 out of a pinned package, class-mean heads, and experts fine-tuned under them."""
