"""One module for each file format: header, pixels, regions.

Decided here: how TIFF, PNG, JPEG, OME-Zarr and the formats of bioio are read. `io.reading` and
`io.regions` choose among them; nobody else imports this folder.
"""
