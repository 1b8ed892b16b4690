"""Translation methods, one file each. The one table of built-in methods."""

BUILTIN = {
    "acl_gan": "methods.acl_gan:AclGan",
    "cut": "methods.cut:CUT",
    "cyclegan": "methods.cyclegan:CycleGAN",
    "drit": "methods.drit:Drit",
    "munit": "methods.munit:Munit",
    "original": "methods.reference:Original",
    "ours": "methods.ours:Ours",
    "unit": "methods.unit:Unit",
    "uvcgan": "methods.uvcgan:UVCGAN",
}

#: Names ``prefix:rest``: prefix -> what makes the class, the rests that it knows besides files. Not among ``--method all``.
FAMILIES = {"mmagic": ("methods.mmagic:resolve", ("cyclegan",))}
