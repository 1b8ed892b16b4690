"""A dataset of one's own: a folder of films and one table, ``films.csv`` (file, patient, view, opaque)."""

from pathlib import Path

import pandas as pd

from bench import Reader, register_dataset, register_suite
from bench.data.contract import CLEAR, LUNG_OPACITY, OPACITY, Decoded, ImageRecord, Problem
from bench.data.pixels import decode
from bench.errors import DataError

TABLE = "films.csv"


@register_dataset("films")
class Films(Reader):
    """Films in one folder; opaque is 1 (opacity) or 0 (clear)."""

    version = 1  # raise it whenever the pixels or labels of the same files could change
    policy = "no-redistribution"  # stands in every record; credentialed: images never leave the machine
    help = f"{TABLE} (file, patient, view, opaque) and the files it names"

    def records(self):
        """One record a row. What is wrong is collected, so that `bench data check` names all of it at once."""
        if not (self.root / TABLE).is_file():
            raise DataError(f"films: {self.root} lacks {TABLE}. The folder must hold {self.help}.")
        table = pd.read_csv(self.root / TABLE, dtype=str, keep_default_na=False)
        found, problems = [], []
        for number, row in enumerate(table.itertuples(), start=2):
            if what := self._wrong(row):
                problems.append(Problem(f"{TABLE} row {number}", what))
                continue
            opaque = row.opaque == "1"
            found.append(
                ImageRecord(
                    image_id=Path(row.file).stem, path=row.file, domain=OPACITY if opaque else CLEAR, patient_id=row.patient,
                    view=row.view, findings={LUNG_OPACITY: float(opaque)},  # what the finding classifier learns
                )
            )  # fmt: skip
        return found, problems, False  # False: patients are known, so a split by patient does not leak

    def _wrong(self, row):
        """What is wrong with a row, or an empty text."""
        if row.opaque not in ("0", "1"):
            return f"opaque is '{row.opaque}'; 1 or 0 is needed."
        try:
            there = self.inside(row.file).is_file()  # refuses paths that lead out of the folder
        except DataError as error:
            return str(error)
        return "" if there else f"names {row.file}, which does not exist."

    def load(self, record, size=None):
        """Pixels in [0, 1], lungs dark: `decode` reads PNG, JPEG, TIFF and DICOM of 8 to 16 bits."""
        image, bits = decode(self.root / record.path)
        return Decoded(image, bits)


@register_suite("looks")
def looks():
    """A suite is a name for some evaluators."""
    return ("fidelity", "classification")
