"""Serves the SAM template on this machine: the HTTP API, function URLs and schedules.

`template` reads it, `workers` run its functions as Lambda would, `server` is the front door.
"""
