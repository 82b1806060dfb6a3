"""Datasets on disk, the order of samples, normalization, the path of a batch to the device."""
