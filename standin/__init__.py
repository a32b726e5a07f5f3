"""A stand-in for Commet: its HTTP API, hosted pages and signed webhooks, in one process.

Start it with `python -m standin`; tests use `standin.testing`. It is an independent
reading of Commet's public contract and imports nothing of the product it is used to test.
"""
