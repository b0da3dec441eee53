"""What the mistakes, the floors and the rivals have in common: tables, responses, tokens, cursors.

All of them serve four routes of the service, from the same database, with the same JSON.
"""
