"""What several tests share: tiny models, records, files in public layouts."""
