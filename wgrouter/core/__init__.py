"""The pure core: decides what should be true and plans the difference. No clock, file, socket or random
number in here.
"""
