"""One training engine, exact when resumed: its options, the loop, checkpoints, and what it reports.

May import ``networks``, ``evaluation``, ``publishing`` and the root modules; ``paper`` and the command import it.
"""
