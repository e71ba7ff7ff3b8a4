"""``alignmix-timm evaluate``: the measures of ``evaluation/`` on any timm model and any data.

Each file that is named after a part joins its measures to rows and processes; ``parts`` lists them, ``part`` says what
one is, and ``context`` what it is given. ``subject`` and ``data`` load the model and the rows, ``report`` writes.

May import ``training``, ``evaluation``, ``points``, ``publishing``, ``networks`` and the root modules; the command
imports it.
"""
