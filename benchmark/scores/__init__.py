"""From scores of samples to numbers: intervals, relative scores, agreement, published values. No torch."""
