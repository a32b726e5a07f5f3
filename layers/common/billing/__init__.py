"""Usage billing through Commet: the code that all Lambda functions share.

This file imports nothing on purpose. Each function imports only the modules that it needs, because
a cold start waits for every import.
"""
