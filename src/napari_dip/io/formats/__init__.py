"""Read the headers, pixels and regions of each file format, one module per format.

The formats are TIFF, PNG, JPEG, OME-Zarr and those that bioio reads. `io.reading` chooses
the module that fits a file.
"""
