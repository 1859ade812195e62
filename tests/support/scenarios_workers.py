"""In the making: workers, poison and leftovers."""
