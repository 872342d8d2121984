"""Tools behind the Makefile's targets."""
