"""From sufficient statistics to numbers: metrics, intervals, relative scores, published values. No torch."""
