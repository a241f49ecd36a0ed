"""Arithmetic that methods share."""
