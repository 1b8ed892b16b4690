"""Leaderboards: a pure function of the records.

`leaderboards.groups` decides which records may stand in one table, `leaderboards.tables` makes the tables with full precision,
`leaderboards.compare` tests methods against each other, `leaderboards.details` makes the tables of parts. `leaderboards.about`
says what evaluators are, `leaderboards.notes` makes the lines below each table, `leaderboards.subjects` decides where they
belong and what they name, and `leaderboards.render` puts all together. `leaderboards.cells` is the only place that rounds. Nothing
here reads a clock or a disk: the same records give the same text, in whatever order they come.
"""
