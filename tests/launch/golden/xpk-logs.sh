# launch/pod.sh xpk logs paper-1b
kubectl --context gke_my-project_us-east5-b_pods logs \
  -l jobset.sigs.k8s.io/jobset-name=paper-1b -c llasa --prefix --tail=100 -f --max-log-requests=1024
