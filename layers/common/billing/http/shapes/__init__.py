"""The shapes of our own HTTP API, as pydantic models. Fields may be added, not renamed.

Each field has a description and an example for the OpenAPI document
(tests/unit/local/test_openapi_words.py). A function imports only the modules that it needs, because
each model costs time at a cold start.
"""
