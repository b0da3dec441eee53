"""The sections of the report. Each module here is one of them; see benchmarks/section.py."""
