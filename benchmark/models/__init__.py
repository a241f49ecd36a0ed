"""Backbones, prompt-built heads and checkpoint families."""
