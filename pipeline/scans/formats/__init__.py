"""One file, one volume: NIfTI, NRRD and MetaImage, read whole or refused."""
