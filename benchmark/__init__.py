"""How merging methods are compared: suites, runs, records and boards. Importing it imports no torch."""
