"""From the text of UCI files to Settings and Problems. Knows nothing of the running system."""
