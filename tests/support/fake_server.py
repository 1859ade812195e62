"""A small server that answers as a test says."""
