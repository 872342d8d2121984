"""Unit and model tests (pure), ports (real sockets), lab (network namespaces), vm (Debian's kernel)."""
