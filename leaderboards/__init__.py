"""Leaderboards: a pure function of the records.

`leaderboards.tables` sorts records into tables, with full precision; `leaderboards.render` turns tables into text and is the
only place that rounds. Neither reads a clock or a disk: the same records give the same text, in whatever order they come.
"""
