"""Readers of published dataset layouts, one file each. The one table of built-in datasets."""

BUILTIN = {
    "synthetic": "bench.data.readers.synthetic:Synthetic",
    "synthetic-icu": "bench.data.readers.synthetic:SyntheticIcu",
    "synthetic-clear": "bench.data.readers.synthetic:SyntheticClear",
    "rsna": "bench.data.readers.rsna:Rsna",
    "nih14": "bench.data.readers.nih14:Nih14",
    "mimic": "bench.data.readers.mimic:Mimic",
    "jsrt": "bench.data.readers.jsrt:Jsrt",
    "covid": "bench.data.readers.covid:Covid",
    "folder": "bench.data.readers.folder:Folder",
}
