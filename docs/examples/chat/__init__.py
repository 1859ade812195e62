"""A chat of rooms on Django Channels: each room is a group of the channel layer."""
