"""What every other room stands on: files, folders, names, errors. Knows nothing of merging."""
