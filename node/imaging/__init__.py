"""Functions on arrays: no DICOM, no files, no network."""
