#!/usr/bin/env bash
# From a fresh machine to a trained model: set-up, MovieLens 100K, training on two processes, evaluation, export.
# Arguments are configuration keys for the training: launch/quickstart.sh train.epochs=5
#
# The run is runs/quickstart, or the first free of runs/quickstart-2, -3, …, unless run.path names one (which goes on).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
launch/setup.sh
export PATH=$root/.venv/bin:$PATH

# Two ranks cannot share one GPU (NCCL refuses), so a machine with a single one trains on a single process.
processes=2
# (Those that CUDA_VISIBLE_DEVICES leaves. Where torch does not even import, doctor says why.)
gpus=$(python -c 'import torch; print(torch.cuda.device_count())' 2>/dev/null) || gpus=0
[[ $gpus != 1 ]] || processes=1
threads=$(($(nproc) / processes))
export OMP_NUM_THREADS=$((threads > 1 ? threads : 1))

data=data/ml-100k
run=runs/quickstart
for ((number = 2; ; number++)); do
    [[ -e $run ]] || break
    run=runs/quickstart-$number
done

# A key may name another place for either; what follows the training is to find it.
for key in "$@"; do
    case $key in
    data.path=*) data=${key#*=} ;;
    run.path=*) run=${key#*=} ;;
    esac
done
data=${data/#\~\//$HOME/} run=${run/#\~\//$HOME/} # as the training reads them

show() {
    echo "+ $*" >&2
    "$@"
}
show infodcl-dist doctor
if [[ ! -e $data/manifest.json ]]; then
    interactions=$(show infodcl-dist sample ml-100k)
    show infodcl-dist prepare "$interactions" --out "$data"
fi
show torchrun --standalone --nproc_per_node "$processes" -m infodcl_dist.train --config configs/ml-100k.yaml \
    data.path="$data" run.path="$run" "$@"
show infodcl-dist evaluate "$run"
show infodcl-dist export "$run" --out "$run/export"

echo
echo "data set    $data"
echo "run         $run  (config.yaml, metrics.jsonl, result.json, checkpoints/)"
echo "embeddings  $run/export  (users.npy, items.npy)"
