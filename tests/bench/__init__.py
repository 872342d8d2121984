"""What wgrouter costs and how fast it is, beside what a user would have otherwise: `make bench`.

    python -m tests.bench [--quick] [--list] [--merge | --append] [--runs N] [KEY | GROUP | MEASURE]...

figures.py has every figure's key, unit and meaning, as data. The other modules take them: each measure is a
generator of samples, with the real agent in the lab where the figure is about the agent. rivals.py has the
alternatives, written by us from the documented behaviour of what they stand for, and named so.

No figure is a test: nothing here fails because a number is large. It fails if a number could not be taken.
"""
