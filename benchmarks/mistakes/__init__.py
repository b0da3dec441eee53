"""The ladder: four routes with all mistakes, which are mended one at a time.

Each file is the one before with one mistake less, so read them with `diff`. Two steps have no file
of their own: uvloop with httptools, and a second worker, are options of the server. The service
itself is the last step.
"""
