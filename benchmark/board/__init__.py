"""Rows, columns and comparisons: from records to Markdown, CSV and terminal. No torch."""
