"""The rendered rooms, and bases and experts of dense prediction, made again."""
