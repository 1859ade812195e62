"""Stores made of other stores, and what they share."""
