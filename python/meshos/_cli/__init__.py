"""The commands that work on keys, envelopes, records and running nodes; `meshos.cli` is the way in.

Nothing native is imported before a command runs, so that `--help` and a usage error come at once.
"""
