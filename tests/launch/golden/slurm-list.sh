# launch/pod.sh slurm list
squeue --me --format="%.10i %.28j %.8T %.10M %.6D %R"
