"""Every use case, written once as a generator that yields commands and knows no I/O."""
