#!/usr/bin/env bash
# A Slurm of one node from Debian's packages, in a temporary folder: installs, starts, submits a sweep in which one job
# is killed once and one fails, checks, stops. As root: `bash tests/slurm/run.sh .venv/bin/python`, or `make test-slurm`.
# It touches no configuration of the machine; the packages stay.
set -euo pipefail

PYTHON=$(realpath -s "${1:-.venv/bin/python}")
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
WORK=$(mktemp -d)
export SLURM_CONF=$WORK/slurm.conf
STARTED=()
USER=$(id -un)

stop() {
  status=$?
  if [ $status -ne 0 ] && [ ${#STARTED[@]} -eq 3 ]; then scancel --user="$USER" && until_works no_jobs || true; fi
  [ ${#STARTED[@]} -eq 0 ] || kill "${STARTED[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  if [ $status -ne 0 ]; then tail -n 20 "$WORK"/*.log || true; fi
  rm -rf "$WORK"
  exit $status
}
trap stop EXIT

say() { printf '\n== %s\n' "$*"; }

# Waits for a command to succeed.
until_works() {
  for _ in $(seq 120); do "$@" >/dev/null 2>&1 && return; sleep 0.5; done
  echo "in vain: $*" >&2
  return 1
}

no_jobs() { [ -z "$(squeue --noheader)" ]; }

say "Slurm"
if ! command -v slurmctld slurmd munged >/dev/null; then
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends slurm-wlm munge
fi
HOST=$(hostname -s)
MEMORY=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
dd if=/dev/urandom of="$WORK/munge.key" bs=1024 count=1 status=none
chmod 700 "$WORK"; chmod 400 "$WORK/munge.key"
mkdir "$WORK/state" "$WORK/spool"
# Without cgroups: linuxproc and task/none. Without slurmdbd: no accounting, so that sacct has no answer.
cat > "$SLURM_CONF" <<CONF
ClusterName=lipbench
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=46817
SlurmdPort=46818
AuthType=auth/munge
AuthInfo=socket=$WORK/munge.socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation=$WORK/state
SlurmdSpoolDir=$WORK/spool
SlurmctldPidFile=$WORK/slurmctld.pid
SlurmdPidFile=$WORK/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$MEMORY State=UNKNOWN
PartitionName=all Nodes=$HOST Default=YES MaxTime=INFINITE State=UP
CONF

start() { "$@" > "$WORK/$(basename "$1").log" 2>&1 & STARTED+=($!); }
start munged --foreground --force --socket="$WORK/munge.socket" --key-file="$WORK/munge.key" \
  --pid-file="$WORK/munged.pid" --seed-file="$WORK/munged.seed" --log-file="$WORK/munged.log"
until_works munge --no-input --socket="$WORK/munge.socket"
start slurmctld -D
start slurmd -D -N "$HOST"
until_works sh -c 'sinfo --noheader --format=%t | grep -qx idle'
sinfo --version
sinfo --format="%P %D nodes, %c cores each, %T"

say "Sweep of four seeds: the process of one is killed once, one fails"
cd "$WORK"
mkdir fates
printf dies > fates/1
printf fails > fates/2
export PYTHONPATH=$ROOT:$ROOT/tests OMP_NUM_THREADS=1
OPTIONS=(suite=two_moons/hkr_mlp seed=0,1,2,3 loss.alpha=0.9 training.epochs=1 images=4 'attack=[fgsm]' 'measure=[]'
  dataset._target_=helpers.mortal.moons "+dataset.path=$WORK/fates/\${seed}" results=runs
  hydra/launcher=submitit_slurm hydra.launcher.memory=1 hydra.launcher.minutes=10)
echo "python -m lipbench run ${OPTIONS[*]}"
code=0
time "$PYTHON" -m lipbench run "${OPTIONS[@]}" 2>&1 | tee sweep.log || code=${PIPESTATUS[0]}

say "Check"
fail() { echo "WRONG: $*"; exit 1; }
[ "$code" -eq 1 ] || fail "the exit code is $code, not 1"
grep -q "^again: seed=1: " sweep.log || fail "the killed job was not started again"
grep -q "3 finished, 1 failed" sweep.log || fail "not three finished and one failed"
grep -q "fated to fail" sweep.log || fail "the failed job does not say why"
for seed in 0 1 3; do
  ls runs/two_moons/hkr_mlp/*/$seed/summary.json >/dev/null || fail "seed $seed is not finished"
done
until_works no_jobs || fail "jobs are left in the queue"
find runs/.submitit -name "*_submission.sh" -exec grep -h "^#SBATCH" {} + | grep -vE "=.*$WORK" | sort -u
echo "as it should be"
