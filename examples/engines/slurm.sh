#!/bin/bash
# A run as one job of Slurm: sbatch examples/engines/slurm.sh
# A job that is requeued after a time limit goes on where it was, in the same folder.
#SBATCH --job-name=plop
#SBATCH --gpus=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=INT@120
exec plop run recipe.yaml --folder "${SLURM_SUBMIT_DIR:-.}/plop-run"
