"""Data, models, heads and metrics of each domain, behind the one interface of `suites.bench`."""
