"""One module per outside system. Ports import the core's vocabulary and neither each other nor the shell."""
