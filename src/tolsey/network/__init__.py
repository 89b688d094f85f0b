"""The door to other machines: the only room that imports libp2p.

What leaves it are strings (peer ids in base58, multiaddrs) and bytes. Read in this order: guards.py (what is wrong
with the library and what is put in its place), host.py, then rpc.py, discovery.py, gossip.py and transfer.py.
"""

from __future__ import annotations

import os

# Read by the library's multiplexer: without it each partial read sends a window-update frame (measured: 20 to 40 %
# of the throughput). It stands here because a package's __init__ runs before any module that imports libp2p.
os.environ["PY_YAMUX_RELEASE_ON_READ"] = "0"
