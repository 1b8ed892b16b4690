"""Translation methods, one file each. The one table of built-in methods."""

BUILTIN = {
    "original": "methods.reference:Original",
    "ours": "methods.ours:Ours",
}
