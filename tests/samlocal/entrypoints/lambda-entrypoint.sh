#!/bin/sh
# As in AWS's image: the emulator, which SAM CLI brings, before the runtime.
if [ $# -ne 1 ]; then
    echo "entrypoint requires the handler name to be the first argument" >&2
    exit 142
fi
export _HANDLER="$1"
if [ -z "${AWS_LAMBDA_RUNTIME_API:-}" ]; then
    exec /var/rapid/aws-lambda-rie --log-level error /var/runtime/bootstrap
fi
exec /var/runtime/bootstrap
