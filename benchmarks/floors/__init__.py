"""The least that each layer can cost: ASGI alone, FastAPI alone, FastAPI with SQL by hand.

The first one is benchmarks/raw.py.
"""
