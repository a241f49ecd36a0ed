"""From a plan to records: merge, evaluate task by task, record. Knows no method by name."""
