"""The command line: one file a verb, and the options they share."""
