"""Stores made of other stores, and what they have in common."""
