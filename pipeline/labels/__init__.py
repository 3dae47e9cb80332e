"""Labels that are no volumes yet: DICOM segmentations and structure sets become label volumes on the grid of the image they belong to."""
