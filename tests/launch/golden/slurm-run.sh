# launch/pod.sh slurm run paper-1b llasa_1b --topology gpu:4x8
mkdir -p /shared/llasa/runs/paper-1b
sbatch --wait <<'EOF'
#!/usr/bin/env bash
#SBATCH --job-name=paper-1b
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --output=/shared/llasa/runs/paper-1b/slurm.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
# Two minutes before its time is up every process is told to stop: they save and end with 75.
status=0
srun --kill-on-bad-exit=1 --label ROOT/.venv/bin/llasa train llasa_1b --tokens /shared/llasa/tokens --model /shared/llasa/model --out /shared/llasa/runs/paper-1b --set train.mesh.data=1 --set train.mesh.fsdp=-1 || status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
EOF
