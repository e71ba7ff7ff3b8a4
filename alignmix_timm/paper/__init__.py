"""The paper's tables, by ``python -m alignmix_timm.paper``, and its figures and measurements of trained networks.

A table goes through ``numbers`` (what is printed), ``methods`` and ``scales`` (which runs fill it), ``runner`` with
``locks`` and ``results`` (do the missing ones), ``small`` or ``full`` with ``measures`` (one run), and ``compare``,
``claims``, ``show`` and ``report`` (what the lines say).

May import ``training`` and all below it. Imported by recipes only.
"""
