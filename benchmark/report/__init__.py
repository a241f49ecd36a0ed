"""What a person looks at: HTML page, figures, notebook, pages made from the registry. No torch."""
