"""An application that depends on channel-layer, written as a user with strict type checkers writes it.

It is checked by mypy and pyright, both strict, against the installed wheel; ``tests/packaging`` does that. It
uses every public name and has no ignore: whatever forces one on this package would force it on every user.
"""
