"""From DICOM studies to NIfTI masks on the scanner's own voxels, with an index that explains every series."""

__version__ = "0.1.0"
