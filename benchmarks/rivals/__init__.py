"""The same four routes in other frameworks, each written as its documentation teaches it.

They have the same database, JSON and tokens as the service, one process, uvloop and httptools. They
have no log, no metrics, no limits and no cache.
"""
