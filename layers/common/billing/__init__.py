"""Usage billing through Commet: everything the Lambda functions share.

This file imports nothing on purpose. Each function imports only the modules it needs, because a
cold start waits for every import.
"""
