"""A user's own checkpoints merged into one folder that loads as the base does."""
