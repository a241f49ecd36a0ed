"""What a run is and what it left: identity, record, store, method version, migrations. No torch."""
