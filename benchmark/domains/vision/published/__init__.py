"""The data sets as their authors, torchvision and the merging papers' repositories lay them out, made into one layout.

`forms` reads each kind of file, `sets` says which data set is published in which forms, `convert` writes what was read
as the hub's files, which `benchmark.domains.vision.local` reads.
"""
