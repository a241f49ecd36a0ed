"""Text: GLUE and tasks of its forms, transformers encoders, GLUE's metrics."""
