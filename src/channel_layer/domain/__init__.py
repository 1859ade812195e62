"""The pure domain: names, capacity, sharding, expiry, routing, frames and the state of inboxes. No I/O, no clock."""
