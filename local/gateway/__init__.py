"""Serves the SAM template on this machine: the HTTP API, function URLs and schedules.

`template` reads the template, `workers` runs its functions as Lambda does, and `server` takes the
HTTP requests.
"""
