# launch/pod.sh gke delete paper-1b
kubectl --context gke_my-project_us-east5-b_pods delete jobset paper-1b --ignore-not-found
