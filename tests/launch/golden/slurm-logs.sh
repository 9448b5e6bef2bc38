# launch/pod.sh slurm logs paper-1b
tail -n 100 -f /shared/llasa/runs/paper-1b/slurm.log
