# launch/pod.sh tpu-vm list
gcloud compute tpus queued-resources list --project my-project --zone us-east5-b
