"""What a run is and what it left: identity, record, its metrics, store, method version, migrations. No torch."""
