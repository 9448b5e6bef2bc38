# launch/pod.sh slurm delete paper-1b
scancel --me --name=paper-1b
