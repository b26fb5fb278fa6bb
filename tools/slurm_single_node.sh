#!/usr/bin/env bash
# A SLURM cluster of this one machine, for tests: munged, slurmctld and slurmd with a configuration of their own.
#
#   eval "$(tools/slurm_single_node.sh start FOLDER)"   # exports SLURM_CONF; then sbatch, squeue, aimbench sweep ...
#   tools/slurm_single_node.sh stop FOLDER
#
# FOLDER is made, and holds configuration, logs and state; a short path, since it holds sockets. Debian: apt-get
# install slurm-wlm munge. No cgroups, no accounting and no service of the system are used, so it runs in containers.
# Exit status 1 with the reason on stderr if the cluster can't start.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

fail() {
    echo "slurm_single_node.sh: $1" >&2
    [ -d "${folder:-}" ] && tail -n 5 "$folder"/*.log >&2
    [ -d "${folder:-}" ] && stop
    exit 1
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

write_config() {
    local user host cpus
    user=$(id -un) host=$(hostname -s) cpus=$(env -u OMP_NUM_THREADS nproc) # all cores, however many threads are asked for
    cat >"$folder/slurm.conf" <<CONF
ClusterName=aimbench
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
MailProg=/bin/true
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
    local program
    for program in munged slurmctld slurmd sbatch sinfo; do
        command -v "$program" >/dev/null || fail "$program is not installed (Debian: apt-get install slurm-wlm munge)"
    done
    mkdir -p "$folder/state" "$folder/spool"
    chmod 755 "$folder"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    write_config
    export SLURM_CONF="$folder/slurm.conf"
    # --force: a folder under /tmp is no place for a key, except for a cluster that lives for one test.
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2>"$folder/munged.start.log" ||
        fail "munged did not start"
    slurmctld -c >"$folder/slurmctld.start.log" 2>&1 || fail "slurmctld did not start"
    slurmd >"$folder/slurmd.start.log" 2>&1 || fail "slurmd did not start"
    for _ in $(seq 60); do
        [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && break
        sleep 0.5
    done
    [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] || fail "the node was not idle after 30 s"
    echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
    local name
    for name in slurmd slurmctld munged; do
        [ -s "$folder/$name.pid" ] && kill "$(cat "$folder/$name.pid")" 2>/dev/null
    done
    return 0
}

[ $# -eq 2 ] || { echo "usage: $0 start|stop FOLDER" >&2; exit 2; }
mkdir -p "$2"
folder=$(cd "$2" && pwd)
case "$1" in
start) start ;;
stop) stop ;;
*) fail "start or stop, not $1" ;;
esac
