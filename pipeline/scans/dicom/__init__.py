"""DICOM images: headers, series, pixels, volumes."""
