#!/bin/sh
# Runs first in new PID and mount namespaces, as their process 1: adds the engine's programs to
# /usr, makes a network namespace, and becomes the command that is given, inside of all of them.
#   enter.sh UNPACKED COMMAND...
set -eu
exec 2>&1
unpacked=$1
shift

if [ -d "$unpacked/usr" ]; then
    mount -t overlay overlay -o "lowerdir=$unpacked/usr:/usr" /usr
fi
resolver=$(readlink -m /etc/resolv.conf) # often below /run
mount -t tmpfs tmpfs /run
mkdir -p /run/sam-local "${resolver%/*}"
: > /run/sam-local/net

# The engine writes a key into /etc/docker. It gets a view of /etc of its own, with the files that a
# container has mounted there (hosts, resolv.conf), and what it writes is gone with /run.
mkdir -p /run/sam-local/etc/before /run/sam-local/etc/upper /run/sam-local/etc/work
mount --rbind /etc /run/sam-local/etc/before
mount -t overlay overlay \
    -o lowerdir=/etc,upperdir=/run/sam-local/etc/upper,workdir=/run/sam-local/etc/work /etc
findmnt --list --noheadings --output TARGET --submounts /run/sam-local/etc/before | while read -r mounted; do
    below=${mounted#/run/sam-local/etc/before}
    if [ -n "$below" ]; then mount --bind "$mounted" "/etc$below"; fi
done

# The way out: a program in this machine's network that speaks for the new one. It asks this machine's
# resolver, so it keeps a view of its own of /etc/resolv.conf.
unshare --net=/run/sam-local/net true
mkfifo /run/sam-local/ready
unshare --mount --propagation private slirp4netns --configure --mtu=65520 --disable-host-loopback \
    --netns-type=path --ready-fd=3 /run/sam-local/net tap0 3> /run/sam-local/ready > /run/sam-local/slirp.log 2>&1 &
if [ "$(head -c 1 /run/sam-local/ready)" != 1 ]; then
    cat /run/sam-local/slirp.log >&2
    exit 1
fi
echo "nameserver 10.0.2.3" > /run/sam-local/resolv.conf
[ -e "$resolver" ] || : > "$resolver"
mount --bind /run/sam-local/resolv.conf "$resolver"

exec nsenter --net=/run/sam-local/net "$@"
