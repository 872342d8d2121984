"""wgrouter keeps WireGuard tunnels and uplinks of an OpenWrt router alive. Nothing is imported here:
imports are the memory budget.
"""

__version__ = "0.1.0"
