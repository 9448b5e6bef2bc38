# launch/pod.sh gke list
kubectl --context gke_my-project_us-east5-b_pods get jobsets -l app=llasa
