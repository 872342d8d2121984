"""The virtual machine: Debian's kernel over this machine's files, for what needs WireGuard in the kernel."""
