"""The loop, the clock, the hands and the memory: reactor, actor, journal. Decides nothing."""
