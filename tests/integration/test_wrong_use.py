"""Wrong use ends in one typed error that says what to do."""
