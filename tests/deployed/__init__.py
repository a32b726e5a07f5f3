"""`make deploy-test`: `make deploy` itself, against an AWS emulator that needs no Docker.

__main__     one run: what it needs, how it ends, that nothing is left behind
life         the stack's life: create, update, fail, rotate, prune, delete
stack        the commands that change the stack, and the project's copy that is deployed
story        what people do with the stack, and the faults that alarms wait for
bus          the stack's own event bus, and a queue that hears what is put on it
watch        alarms and metrics, roles and actions
front        the address at which everybody calls AWS
adaptations  what the emulator cannot do, and how its template avoids that
faults       whether the emulator still has these faults
emulator     the emulator's own environment, and its process
unpacking    has the emulator unpack a layer once
database     Postgres over TLS
commet       the stand-in for Commet
leftovers    ends the processes and deletes the files of a run, however it ends
"""
