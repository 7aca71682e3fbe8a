"""Remove dead channels from a network, exactly.

``removal`` is the public function. It calls ``trace`` (network to graph, with the help of ``decompose`` and
``modules``), ``solve`` (which channels can go; knows no operation), ``rules`` (one for each kind of operation) and
``verify`` (the smaller network computes the same function).
"""

from .removal import compact

__all__ = ["compact"]
