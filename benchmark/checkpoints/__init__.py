"""Checkpoint families on disk, and the reader of foreign pickles that runs none of them."""
