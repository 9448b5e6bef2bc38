# launch/pod.sh xpk list
xpk workload list --project my-project --zone us-east5-b --cluster pods
