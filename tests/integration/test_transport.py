"""How the Redis layer reaches its servers."""
