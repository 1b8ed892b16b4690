"""Leaderboards: a pure function of the records.

`leaderboards.groups` decides which records may stand in one table, `leaderboards.tables` makes the tables with full precision,
`leaderboards.evidence` says which test there is between two values, `leaderboards.marks` what is best, second and a tie by it,
`leaderboards.changes` makes an evaluator's own tests anew where there are several seeds. `leaderboards.compare` tests methods
against each other and `leaderboards.differences` writes that down, `leaderboards.details` makes the tables of parts.
`leaderboards.about` says what evaluators are, `leaderboards.notes` makes the lines below each table, `leaderboards.subjects`
decides where they belong and what they name, and `leaderboards.render` puts all together. `leaderboards.paper` (the paper's
tables, beside `leaderboards.published`, its printed numbers) and `leaderboards.general` make sheets (`leaderboards.sheet`),
which `leaderboards.formats` and `leaderboards.latex` write and `leaderboards.frames` makes tables for a tracker of.
`leaderboards.cases` chooses images out of what runs stored (`leaderboards.stored`), which `leaderboards.figures` draws and
`leaderboards.page` shows, with everything else, in one file for a browser. `leaderboards.command` is what ``bench leaderboard``
does, and alone prints. `leaderboards.cells` is the only place that rounds. Besides the records and the values by image that
come with them, the package's own presets and printed numbers are read, and for figures and page what runs stored (images, and
values by image once more). No clock is: the same records give the same text, in whatever order they come.
"""
