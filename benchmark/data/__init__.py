"""Loading of data sets; `mini/` holds the embedded ones, `build/` makes them again from pinned packages."""
