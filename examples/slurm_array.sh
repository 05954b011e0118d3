#!/bin/bash
# Run trials as a Slurm array, one GPU each. Trials that are finished end at once.
#
#     ls TRIALS/*/spec.json > specs.txt
#     sbatch --array=1-$(wc -l < specs.txt) slurm_array.sh specs.txt
#
# The folder must be on storage that all nodes see. After a time limit or a lost node, submit the
# same again: a trial without result.json starts anew.
#SBATCH --job-name=plop-trials
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --output=plop-trial-%A-%a.out
set -euo pipefail

spec=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")
folder=$(dirname "$spec")
if [[ -e $folder/result.json ]]; then
    echo "$folder is finished"
    exit 0
fi
# The lock is the one that plop's own runners take, so both may work in the folder at once.
# PLOP_TRIAL replaces the command, such as by a container's or by torchrun's.
flock --nonblock "$folder/.lock" ${PLOP_TRIAL:-python -P -m plop_lora trial} "$spec" >> "$folder/log.txt" 2>&1
