"""A suite of the user's own: images as they lie, a library's encoder, experts and heads by path."""
