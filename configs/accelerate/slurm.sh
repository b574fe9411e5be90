#!/usr/bin/env bash
# A training on two nodes of eight GPUs under SLURM:
#   sbatch configs/accelerate/slurm.sh --config configs/flagship.yaml --dataset chest_xray.zip
# --dataset and --output_dir must lie on a disk that all nodes share. After a preemption SLURM starts it again, and it
# resumes from its last whole epoch.
#SBATCH --job-name=pneumo_hf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
RESUME=()
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    RESUME=(--resume_from_checkpoint)
fi
export HOST
srun bash -c 'exec accelerate launch --config_file configs/accelerate/multi_node.yaml \
    --num_machines "$SLURM_NNODES" --num_processes $((8 * SLURM_NNODES)) \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$HOST" train_hf.py "$@"' _ "$@" "${RESUME[@]}"
