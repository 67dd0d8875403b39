"""Masks as DICOM objects of the patient and study that they were made of: SEG, RTSTRUCT and SR.

highdicom loads with the first object that is made; a run without them imports `source` and `stamp` alone.
"""
