"""The embedded image tasks, their tiny CLIP and its experts, made again."""
