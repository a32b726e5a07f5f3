"""Usage billing through Commet: everything the Lambda functions share.

Nothing is imported here on purpose. Each function pulls in the modules it needs and no more,
because what is imported at start-up is what a cold start waits for.
"""
