"""An application that uses channel-layer, written for strict type checkers.

``tests/packaging`` checks it with mypy and pyright, both strict, against the installed wheel. It uses every public name
and ignores no error: an error that it had to ignore, every user would have to ignore.
"""
