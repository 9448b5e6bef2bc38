# launch/pod.sh xpk delete paper-1b
xpk workload delete --project my-project --zone us-east5-b --cluster pods --workload paper-1b --force
