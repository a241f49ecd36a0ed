"""Records of a third party as one file: packed and checked."""
