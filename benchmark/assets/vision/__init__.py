"""Embedded image towers and their experts."""
