"""Leaderboards: a pure function of the records.

`leaderboards.groups` decides which records may stand in one table, `leaderboards.tables` makes the tables with full precision,
`leaderboards.compare` tests methods against each other, `leaderboards.details` and `leaderboards.notes` make the tables of parts
and the lines below, and `leaderboards.render` puts them together. `leaderboards.cells` is the only place that rounds. Nothing
here reads a clock or a disk: the same records give the same text, in whatever order they come.
"""
